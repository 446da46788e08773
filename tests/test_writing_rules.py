"""Who may print, and who may write, rename and remove files: kept by reading every call there is.

Printing is `text.show`'s alone. Files are made, renamed and removed in the modules of `io` that
prove what they touch; what else does so is named here with its reason. Making a folder is free: it
takes nothing from anybody.
"""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.test_architecture import sources

WRITERS = {
    "frictionstore.io.owned": "what is provably ours",
    "frictionstore.io.durable": "files, whole or not at all",
    "frictionstore.io.once": "files that are made once, by whoever comes first",
    "frictionstore.io.aside": "folders, whole or not at all",
}
# What else writes: module and call, and why that takes nothing from anybody.
WRITING = {
    ("frictionstore.text", "os.open"): "the null device",
    ("frictionstore.cli.main", "open"): "the streams of the process itself",
    ("frictionstore.share.pack", "archive.open"): "an entry of the zip that io made",
    ("frictionstore.share.export", "archive.open"): "a member of the npz that io made",
    ("frictionstore.share.export", "data.to_netcdf"): "into the file that io made",
    ("frictionstore.share.viewer", "FigureCanvasAgg(figure).print_png"): "into memory",
    ("frictionstore.extract.engines.geolip", "torch.save"): "in a temporary folder",
    ("frictionstore.share.push_pull", "TemporaryFile"): "a file without a name",
    ("analyses.core.rows", "tempfile.TemporaryFile"): "a file without a name",
    ("analyses.core.rows", "os.ftruncate"): "the same",
    ("analyses.core.results", "np.savez_compressed"): "in a folder that was made for it",
    ("analyses.core.results", "self._frame(name).to_parquet"): "in a folder that was made for it",
    ("analyses.core.figures", "FigureCanvasAgg(figure).print_png"): "the same",
    ("analyses.core.figures", "FigureCanvasSVG(figure).print_svg"): "the same",
}
PRINTING = {
    ("frictionstore.progress", "write"): "text.write, which escapes for the stream",
    ("frictionstore.io.relay", "pickle.dump"): "answers of a process of its own",
    ("frictionstore.show.page", "print"): "the build of a wheel imports it alone",
}

STREAMS = {
    "frictionstore.text": "prints",
    "frictionstore.cli.main": "opens those that are closed",
    "frictionstore.cli.group": "silences the one that broke",
    "analyses.core.terminal": "asks whether it is a terminal",
    "analyses.core.results": "asks whether it is a terminal",
}

_TAKES = {"rename", "renames", "unlink", "remove", "removedirs", "rmdir", "symlink", "link",
          "truncate", "ftruncate", "replace"}  # of os  # fmt: skip
_OF_PATHS = {"unlink", "rename", "rmdir", "write_text", "write_bytes", "symlink_to",
             "hardlink_to", "touch"}  # fmt: skip
_OF_SHUTIL = {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copymode", "copystat",
              "make_archive", "unpack_archive"}  # fmt: skip
_OF_LIBRARIES = {"np.save", "np.savez", "np.savez_compressed", "np.savetxt", "torch.save"}
_OF_ARRAYS = {
    "savefig",
    "print_png",
    "print_svg",
    "tofile",
    "to_parquet",
    "to_csv",
    "to_netcdf",
    "to_zarr",
    "extractall",
}
_FLAGS = {"O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC", "O_APPEND"}


def _modes(call: ast.Call) -> set[str]:
    """Texts that may be the mode of a call that opens: short, and of a mode's letters."""
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    texts = [one.value for one in given if isinstance(one, ast.Constant)]
    return {one for one in texts if isinstance(one, str) and 0 < len(one) < 5
            and set(one) <= set("rwaxbt+")}  # fmt: skip


def writes(call: ast.Call) -> bool:
    """Whether a call may make, change, rename or remove a file."""
    name = ast.unparse(call.func)
    first, last = name.split(".")[0], name.split(".")[-1]
    if (first == "os" and last in _TAKES) or (first == "shutil" and last in _OF_SHUTIL):
        return True
    if name in _OF_LIBRARIES or (isinstance(call.func, ast.Attribute) and (
            last in _OF_PATHS or last in _OF_ARRAYS)):  # fmt: skip
        return True
    if last == "replace" and isinstance(call.func, ast.Attribute):
        return len(call.args) == 1 and not call.keywords  # of a path; of text it has two
    if last in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        return True
    if name == "os.open":
        flags = [one for given in call.args[1:] for one in ast.walk(given)]
        return any(isinstance(one, ast.Attribute) and one.attr in _FLAGS for one in flags)
    if last in ("open", "fdopen") or last.startswith("open_"):
        return any(set(mode) & set("wax+") for mode in _modes(call))
    return False


def prints(call: ast.Call) -> bool:
    """Whether a call writes on a stream of the process."""
    name = ast.unparse(call.func)
    return (
        name in ("print", "pprint", "pprint.pprint", "click.echo", "click.secho",
                 "click.echo_via_pager", "traceback.print_exc")
        or name.endswith((".stdout.write", ".stderr.write", ".stdout.writelines",
                          ".stderr.writelines", "stdout.buffer.write", "stderr.buffer.write"))
        or (name in ("os.write", "os.writev") and bool(call.args)
            and isinstance(call.args[0], ast.Constant))
        or name == "pickle.dump"
        or (name == "write" and bool(call.args) and ast.unparse(call.args[0]).startswith("sys."))
    )  # fmt: skip


@cache
def nodes(text: str) -> list[ast.AST]:
    """Everything that a module says."""
    return list(ast.walk(ast.parse(text)))


def found(modules: dict[str, str], judge: object) -> set[tuple[str, str]]:
    """Module and call of each that `judge` picks out."""
    assert callable(judge)
    return {
        (module, ast.unparse(node.func))
        for module, text in modules.items()
        for node in nodes(text)
        if isinstance(node, ast.Call) and judge(node)
    }


def test_only_text_prints() -> None:
    printing = found(sources(), prints)
    assert {one for one in printing if one[0] != "frictionstore.text"} == set(PRINTING)


def test_only_io_writes() -> None:
    writing = found(sources(), writes)
    assert {one for one in writing if one[0] not in WRITERS} == set(WRITING)
    assert {module for module, _ in writing} >= set(WRITERS)


def test_nothing_is_hidden_by_another_name() -> None:
    """Under a name of its own the rules would not see it."""
    for module, text in sources().items():
        for node in nodes(text):
            if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "sys", "click"):
                names = {alias.name for alias in node.names}
                hidden = names & (_TAKES | _OF_SHUTIL | {"open", "stdout", "stderr", "echo"})
                assert not hidden, f"{module} imports {hidden} by name: write {node.module}.NAME"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert not (alias.asname and alias.name in ("os", "shutil", "sys", "click"))


@pytest.mark.parametrize(
    "planted",
    [
        "print('x')", "click.echo(name)", "sys.stdout.write(x)", "sys.stderr.buffer.write(b'')",
        "click.secho('x', err=True)", "os.write(1, b'x')", "write(sys.stderr, x)",
        "print(x, file=sys.stderr)",
    ],
)  # fmt: skip
def test_what_prints_is_seen(planted: str) -> None:
    assert found({"a": f"def f():\n    {planted}"}, prints)


@pytest.mark.parametrize(
    "planted",
    [
        "os.rename(a, b)", "path.rename(b)", "path.replace(b)", "os.replace(a, b)",
        "path.unlink()", "shutil.rmtree(x)", "open(path, 'w')", "open(p, mode='ab')",
        "path.open('x')", "os.open(p, os.O_RDWR | os.O_CREAT)", "path.write_text('')",
        "(a / b).write_bytes(b'')", "os.fdopen(d, 'r+b')", "os.symlink(a, b)", "a.touch()",
        "zarr.open_array(p, mode='r+')", "figure.savefig(p)", "open(p, 'xb')", "os.rmdir(p)",
        "tempfile.TemporaryFile(dir=f)",
    ],
)  # fmt: skip
def test_what_writes_is_seen(planted: str) -> None:
    assert found({"a": f"with x:\n    {planted}"}, writes)


@pytest.mark.parametrize(
    "harmless",
    [
        "text.replace('a', 'b')", "replace(job, maps=left)", "open(p, 'rb')", "open(p)",
        "os.open(p, os.O_RDONLY | os.O_CLOEXEC)", "values.remove(x)",
        "zarr.open_array(p, mode='r')", "show(text, err=True)", "result.save(folder)", "p.mkdir()",
        "open(d, 'rb')",
    ],
)  # fmt: skip
def test_what_only_reads_is_not_taken_for_writing(harmless: str) -> None:
    assert not found({"a": harmless}, writes)
    assert not found({"a": harmless}, prints)


def test_streams_are_named_in_few_places() -> None:
    """Whoever names a stream could hand it on to something that writes."""
    named = {
        module
        for module, text in sources().items()
        for node in nodes(text)
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        and ast.unparse(node.value) == "sys"
    }  # fmt: skip
    assert named - {module for module, _ in PRINTING} == STREAMS.keys()
