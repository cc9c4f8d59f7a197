"""Files appear complete or not at all, and URLs are refused as paths."""

import pytest

from jen1_jax.files import Unfinished, whole_folder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, whole_file, write_text


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket", "file:///tmp/x", "gs:/bucket"])
def test_urls_are_refused_by_their_scheme(url):
    with pytest.raises(Refusal, match=rf"{url} is a URL \({url.split(':')[0]}:\).*local path"):
        local(url)


@pytest.mark.parametrize("path", ["run", "/tmp/a b", "runs/12:30", "C", "a.b/c", "C:/runs"])
def test_local_paths_stay_as_they_are(path):
    assert str(local(path)) == path


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyError), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_appears_with_all_of_its_files_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    with pytest.raises(Refusal, match="already exists"), whole_folder(tmp_path / "out"):
        pass
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "whole").touch()
    assert (tmp_path / "empty" / "whole").exists() and (tmp_path / "link").is_symlink()


def test_with_a_key_an_interrupted_folder_is_given_again(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out, "key") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), whole_folder(out, "other") as folder:
        assert not list(folder.iterdir())
        with pytest.raises(Refusal, match="Another command is writing"), whole_folder(out, "other"):
            pass
        raise KeyboardInterrupt
    with pytest.raises(Refusal, match="bad input"), whole_folder(out, "other"):
        raise Refusal("bad input")
    with pytest.raises(Unfinished), whole_folder(out, "key"):
        raise Unfinished("go on later")
    with whole_folder(out, "key") as folder:
        assert [path.name for path in folder.iterdir()] == ["half"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_file_left_is_not_in_the_folder_that_goes_on(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "out", "key") as folder:
        (folder / "kept").write_text("")
        (folder / "report.png.0.partial").write_text("")  # as SIGKILL leaves it
        raise KeyError
    with whole_folder(tmp_path / "out", "key"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]
