"""Modules are found by walking, and read without being imported."""

import subprocess
import sys

import pytest

from mmclr import discovery

HEADS = {
    '"""One line."""\nraise RuntimeError\n': "One line",
    '"""One line: `mmclr x`?\n\nMore.\n"""\nraise RuntimeError': "One line: `mmclr x`?",
    '# a comment\n# and more\n\nr"""With a \\d, and a "quote" ."""\n': 'With a \\d, and a "quote" ',
    '"""An escaped \\"quote\\"."""\n': 'An escaped "quote"',
    "x = 1\n'''none of it'''\n": "",
    "": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that adds a file to the package `house`; `upper` and `_own` are rooms in it."""
    for room in ("house", "house/upper", "house/_own"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def add(name, text="raise RuntimeError('imported')"):
        (tmp_path / "house" / name).write_text(text)

    yield add
    for name in [name for name in sys.modules if name.split(".")[0] == "house"]:
        del sys.modules[name]


@pytest.mark.parametrize("text", HEADS)
def test_first_line_is_read_and_nothing_imported(text, package):
    package("upper/__init__.py")
    package("upper/one.py", text)
    assert discovery.first_line("house.upper.one") == HEADS[text]
    assert not [name for name in sys.modules if name.startswith("house")]


def test_what_is_there_is_found(package):
    for name in ("two.py", "upper/one.py", "_hidden.py", "_own/three.py", "upper/data.txt"):
        package(name)
    assert list(discovery.modules("house")) == ["house.two", "house.upper.one"]
    assert discovery.by_name("house.upper", "house.nothing") == {"one": "house.upper.one"}
    assert discovery.by_name("house") == {"two": "house.two", "one": "house.upper.one"}
    assert discovery.first_line("house.nothing") == discovery.first_line("nothing.house") == ""


def test_folders_that_a_package_gained_are_walked_too(package, tmp_path):
    package("one.py")
    (tmp_path / "elsewhere" / "room").mkdir(parents=True)
    (tmp_path / "elsewhere" / "room" / "other.py").write_text('"""From elsewhere."""\n')
    import house

    house.__path__.append(str(tmp_path / "elsewhere"))
    assert discovery.by_name("house") == {"one": "house.one", "other": "house.room.other"}
    assert discovery.first_line("house.room.other") == "From elsewhere"


def test_one_name_twice_is_refused(package):
    package("one.py")
    package("upper/one.py")
    with pytest.raises(TypeError, match=r"house\.one and house\.upper\.one have one name"):
        discovery.by_name("house")


def test_needs_the_standard_library_alone():
    code = "import sys; before = set(sys.modules); import mmclr.discovery; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    strangers = {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert strangers == {"mmclr"}
