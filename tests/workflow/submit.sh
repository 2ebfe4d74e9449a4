#!/bin/sh
# The smallest "cluster": starts a job script in the background and says the process's id.
nohup sh "$1" > "$1.out" 2>&1 &
echo $!
