"""Measurements that `make bench` prints as ratios; none of them is a test."""
