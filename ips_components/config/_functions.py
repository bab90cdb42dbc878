"""Programs and functions that a config names: whether they exist, and take what they are given."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._run import SimulationConfig
from ips_components.config._sources import find_source, parsed, top_level_names

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
            problems.add(config.section, "ARGS", f"there is no file {script!r}")
    elif Path(script).name not in staged or Path(script).name != script:
        problems.add(
            config.section,
            "ARGS",
            f"{script!r} is a relative path, and the program starts in the component's own "
            "directory, where it is not",
            f"give an absolute path, for example $PWD/{script}, or list it in INPUT_FILES",
        )


def check_functions(
    section: str,
    name: str,
    specs: str,
    beside: str,
    arguments: Mapping[str, Any] | None,
    problems: Problems,
) -> None:
    """Check functions ``package.module:function``, with commas between.

    Parameters
    ----------
    section, name
        Where they are named.
    specs
        The functions.
    beside
        A directory in which their modules may be.
    arguments
        Keyword arguments that each of them gets; None when that is not to be checked.
    problems
        Where to note what is wrong.
    """
    seen: dict[str, str] = {}
    for spec in filter(None, map(str.strip, specs.split(","))):
        module, _, function = spec.partition(":")
        if function in seen:
            problems.add(
                section,
                name,
                f"{seen[function]} and {spec} have the same name, so that their results would, too",
                "rename one of the functions",
            )
        seen[function] = spec
        source, problem = find_source(module, beside)
        if problem:
            remedy = f"put it in PYTHONPATH or in INPUT_DIR ({beside}); the Dask workers import it"
            problems.add(section, name, problem, remedy)
            continue
        try:
            tree = parsed(source)
        except SyntaxError as error:
            text = (error.text or "").strip()
            problems.add(
                section,
                name,
                f"{source}, line {error.lineno}: {error.msg}" + (f": {text}" if text else ""),
                "correct the file",
            )
            continue
        names = top_level_names(source)
        if names is not None and function not in names:
            message = f"{module} has no function {function!r}"
            problems.add(section, name, message, did_you_mean(function, names))
        elif tree is not None and arguments is not None:
            _check_arguments(section, spec, tree, arguments, problems)


def _check_arguments(
    section: str, spec: str, tree: ast.Module, arguments: Mapping[str, Any], problems: Problems
) -> None:
    """Compare what a function is given with what it takes, where the file says so plainly."""
    name = spec.partition(":")[2]
    taken = _arguments(tree, name)
    if taken is None:
        return
    positional = [each.arg for each in (*taken.posonlyargs, *taken.args)]
    if not positional and taken.vararg is None:
        problems.add(
            section,
            "ANALYSIS",
            f"{spec} takes no positional argument, and gets the arrays as its first one",
            f"def {name}(arrays, ...)",
        )
        return
    by_name = [each.arg for each in (*taken.args, *taken.kwonlyargs)]
    by_name = [each for each in by_name if each not in positional[:1]]
    if taken.kwarg is None:
        for argument in arguments:
            if argument not in by_name:
                problems.add(
                    section,
                    "ANALYSIS_ARGS",
                    f"{spec} takes no argument {argument!r}; it takes "
                    f"{', '.join(by_name) or 'the arrays only'}",
                    did_you_mean(argument, by_name),
                )
    optional = set(positional[len(positional) - len(taken.defaults) :])
    optional |= {
        each.arg
        for each, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
        if default is not None
    }
    for argument in by_name:
        if argument not in {*arguments, *_OFFERED, *optional}:
            problems.add(
                section,
                "ANALYSIS_ARGS",
                f"{spec} needs the argument {argument!r}",
                f"ANALYSIS_ARGS = {argument}=...",
            )


def _arguments(tree: ast.Module, name: str) -> ast.arguments | None:
    """Return the arguments of a function, None where the file does not say them plainly."""
    found = [
        each
        for each in tree.body
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == name
    ]
    return found[0].args if len(found) == 1 and not found[0].decorator_list else None


def takes_argument(spec: str, beside: str, argument: str) -> bool | None:
    """Return whether a function takes an argument by name; None where that cannot be read."""
    module, _, function = spec.partition(":")
    source, problem = find_source(module, beside)
    try:
        tree = None if problem else parsed(source)
    except SyntaxError:
        return None
    taken = None if tree is None else _arguments(tree, function)
    if taken is None or taken.kwarg is not None:
        return None
    return argument in [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
