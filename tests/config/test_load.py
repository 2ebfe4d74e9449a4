"""YAML is read as people mean it, and what cannot be read is said with file and place."""

import pytest

from tst_titan.config.experiment import ProjectConfig
from tst_titan.config.load import parse, read_yaml
from tst_titan.errors import UserError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: {c: 1, d: 2, c: 3}\n", ["line 2", "key 'c' is given twice"]),
        (b"runs:\n  tst: {}\n  tst: {times: 2}\n", ["line 3", "key 'tst' is given twice"]),
        ("a: 1\n".encode("utf-16"), ["not a UTF-8 text", "0xff at position 0", "save the file as UTF-8"]),
        (bytes(range(128, 256)), ["not a UTF-8 text", "0x80"]),
        (b"a: \x00\x01", ["not valid YAML"]),
        (b"a: [1, 2", ["not valid YAML", "line"]),
        (b"- 1\n", ["expected a mapping", "found list"]),
        (b"", ["expected a mapping", "found NoneType"]),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "scale.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_merges_and_marks_of_editors_are_fine(tmp_path):
    path = tmp_path / "scale.yaml"
    path.write_bytes(b"\xef\xbb\xbfbase: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nrate: 2e-3\n")
    assert read_yaml(path) == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}, "rate": 0.002}


def test_one_experiment_is_a_list_of_one():
    assert parse(ProjectConfig, {"experiments": "mine"}, "config").experiments == ("mine",)


@pytest.mark.parametrize("results", ["", "my results", "~/results", "a;b", "$HOME"])
def test_a_results_folder_that_a_shell_would_not_take_is_refused(results):
    with pytest.raises(UserError, match=r"key results: found .*a folder's name is letters, digits and _ -"):
        parse(ProjectConfig, {"experiments": ["mine"], "results": results}, "config")


@pytest.mark.parametrize("results", ["results", "/data/me@lab/run=1,b", "../Größe/x.y"])
def test_other_results_folders_are_taken_as_they_are(results):
    assert parse(ProjectConfig, {"experiments": ["mine"], "results": results}, "config").results == results
