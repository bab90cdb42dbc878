"""Programs and functions that a config names: whether they exist, and take what they are given."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._run import SimulationConfig
from ips_components.config._sources import changes_path, find_source, parsed, top_level_names

_OFFERED = ("run", "checkpoint")
"""Arguments that an analysis may ask for by their names."""


def check_program_files(config: SimulationConfig, problems: Problems) -> None:
    """Check the script that an interpreter is to run: its working directory is another one."""
    if not Path(config.executable or "").name.startswith("python"):
        return
    script = next((each for each in config.args if not each.startswith("-")), "")
    if not script.endswith(".py") or "{" in script or config.args[0] in ("-c", "-m"):
        return
    staged = {Path(pattern).name for pattern in config.input_files}
    if Path(script).is_absolute():
        if not Path(script).is_file():
            here = Path.cwd()
            remedy = (
                f"$PWD is the directory where ips.py starts, {here}: change to that of the program "
                "first, or give it to ips_components.run(..., directory=...)"
                if here in Path(script).parents
                else ""
            )
            problems.add(config.section, "ARGS", f"there is no file {script!r}", remedy)
    elif Path(script).name not in staged or Path(script).name != script:
        problems.add(
            config.section,
            "ARGS",
            f"{script!r} is a relative path, and the program starts in the component's own "
            "directory, where it is not",
            f"give an absolute path, for example $PWD/{script}, or list it in INPUT_FILES",
        )


class FunctionChecker:
    """Checks functions that a section names, without importing their modules.

    Parameters
    ----------
    section
        The section.
    beside
        A directory in which their modules may be.
    exported
        Whether that directory comes from the environment.
    apart
        Whether they run where other packages are installed, in a container.
    problems
        Where to note what is wrong.
    """

    def __init__(
        self, section: str, beside: str, exported: bool, apart: bool, problems: Problems
    ) -> None:
        self.section = section
        self.beside = beside
        self.exported = exported
        self.apart = apart
        self.problems = problems

    def check(self, name: str, specs: str, arguments: Mapping[str, Any] | None) -> None:
        """Check functions ``package.module:function``, with commas between.

        Parameters
        ----------
        name
            Of the parameter.
        specs
            The functions.
        arguments
            Keyword arguments that each of them gets; None when that is not to be checked.
        """
        seen: dict[str, str] = {}
        for spec in filter(None, map(str.strip, specs.split(","))):
            function = spec.partition(":")[2]
            if function in seen:
                message = f"{seen[function]} and {spec} have the same name"
                remedy = "rename one of the functions"
                self._add(name, f"{message}, so that their results would, too", remedy)
            seen[function] = spec
            self._check_one(name, spec, arguments)

    def _check_one(self, name: str, spec: str, arguments: Mapping[str, Any] | None) -> None:
        module, _, function = spec.partition(":")
        source, problem = find_source(module, self.beside)
        if problem:
            whose = ", which is exported in the environment" if self.exported else ""
            place = f"in PYTHONPATH or in INPUT_DIR ({self.beside}{whose})"
            self._add(name, problem, f"put it {place}; the Dask workers import it")
            return
        try:
            tree = parsed(source)
        except SyntaxError as error:
            text = f": {error.text.strip()}" if error.text else ""
            self._add(name, f"{source}, line {error.lineno}: {error.msg}{text}", "correct the file")
            return
        if tree is None:
            return
        if not (self.apart or source is None or changes_path(source)):
            self._check_imports(name, source, tree)
        names = top_level_names(source)
        if names is not None and function not in names:
            remedy = did_you_mean(function, names)
            self._add(name, f"{module} has no function {function!r}", remedy)
        elif arguments is not None and (found := _function(tree, function)) is not None:
            self._check_arguments(spec, found.args, arguments)
            takes_run = "run" in _names(found.args)
            if not (takes_run or found.args.kwarg or _returns(found)):
                self._add(
                    name,
                    f"{source}, line {found.lineno}: {spec} returns nothing",
                    "return lazy results, for example {'mean': arrays['temperature'].mean()}",
                )

    def _check_imports(self, name: str, source: Path, tree: ast.Module) -> None:
        """Find what the file imports first of all, and is not there."""
        for node in tree.body:
            if isinstance(node, ast.Import):
                modules = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            for package in (each.partition(".")[0] for each in modules):
                if find_source(package, self.beside)[1]:
                    where = f"{source}, line {node.lineno}"
                    remedy = "correct the name, or install it; the Dask workers import it"
                    self._add(name, f"{where}: there is no module {package!r}", remedy)

    def _check_arguments(
        self, spec: str, taken: ast.arguments, arguments: Mapping[str, Any]
    ) -> None:
        """Compare what a function is given with what it takes."""
        positional = [each.arg for each in (*taken.posonlyargs, *taken.args)]
        if not positional and taken.vararg is None:
            self._add(
                "ANALYSIS",
                f"{spec} takes no positional argument, and gets the arrays as its first one",
                f"def {spec.partition(':')[2]}(arrays, ...)",
            )
            return
        by_name = [each.arg for each in (*taken.args, *taken.kwonlyargs)]
        by_name = [each for each in by_name if each not in positional[:1]]
        for argument in () if taken.kwarg else arguments:
            if argument not in by_name:
                takes = ", ".join(by_name) or "the arrays only"
                message = f"{spec} takes no argument {argument!r}; it takes {takes}"
                self._add("ANALYSIS_ARGS", message, did_you_mean(argument, by_name))
        optional = set(positional[len(positional) - len(taken.defaults) :])
        optional |= {
            each.arg
            for each, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
            if default is not None
        }
        for argument in by_name:
            if argument not in {*arguments, *_OFFERED, *optional}:
                remedy = f"ANALYSIS_ARGS = {argument}=..."
                self._add("ANALYSIS_ARGS", f"{spec} needs the argument {argument!r}", remedy)

    def _add(self, name: str, message: str, remedy: str) -> None:
        self.problems.add(self.section, name, message, remedy)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the definition of a function, None where the file does not say it plainly."""
    found = [
        each
        for each in tree.body
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == name
    ]
    return found[0] if len(found) == 1 and not found[0].decorator_list else None


def _returns(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function returns or yields anything, or never comes to its end."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(node, ast.Return) and node.value is not None:
            return True
        if not isinstance(node, inner):
            left += ast.iter_child_nodes(node)
    return isinstance(function.body[-1], ast.Raise)


def _names(taken: ast.arguments) -> list[str]:
    return [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]


def takes_argument(spec: str, beside: str, argument: str) -> bool | None:
    """Return whether a function takes an argument by name; None where that cannot be read."""
    module, _, function = spec.partition(":")
    source, problem = find_source(module, beside)
    try:
        tree = None if problem else parsed(source)
    except SyntaxError:
        return None
    found = None if tree is None else _function(tree, function)
    if found is None or found.args.kwarg is not None:
        return None
    return argument in _names(found.args)
