"""Libraries that only some users need."""

import sys

import pytest

from kregkit._core.optional import import_optional


def test_what_is_there_is_imported():
    import json.decoder

    assert import_optional("json.decoder", "this test") is json.decoder


@pytest.mark.parametrize(
    ("module", "package", "command"),
    [
        ("sklearn.datasets", "scikit-learn", "scikit-learn"),
        ("tensorflow_datasets", "tensorflow-datasets", "tensorflow-datasets importlib_resources"),
    ],
)
def test_what_is_missing_names_the_pip_command(module, package, command, monkeypatch):
    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == module.partition(".")[0]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hide(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == module.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ImportError, match=f"^kregkit.data needs {package}, which is not installed: pip install {command}$"
    ):
        import_optional(module, "kregkit.data")


def test_what_a_library_itself_lacks_is_told_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "kregkit_test_broken.py").write_text("import kregkit_test_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="kregkit_test_absent") as error:
        import_optional("kregkit_test_broken", "this test")
    assert "pip install" not in str(error.value)
