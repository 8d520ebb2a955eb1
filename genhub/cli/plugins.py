"""`genhub plugins`."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from genhub.cli.arguments import PLAIN, AsJson
from genhub.cli.output import print_facts, print_table, say_wrong
from genhub.errors import PluginError
from genhub.ground.console import put

if TYPE_CHECKING:
    from genhub.interfaces.registry import Plugin
    from genhub.testing import Result


app = typer.Typer(help="List, describe, check plugins: models, modalities.", **PLAIN)
Load = Annotated[bool, typer.Option("--load", help="Import each, to tell which are broken and what they can do.")]


@app.callback()
def plugins_default(context: typer.Context, load: Load = False, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        plugins_list(load, as_json)


@app.command("list")
def plugins_list(load: Load = False, as_json: AsJson = False) -> None:
    """List what is installed and who brought it."""
    from genhub.interfaces import registry  # whoever asks for help alone doesn't wait for it

    claims = Counter((plugin.group, plugin.name) for plugin in registry.all_plugins()[0])
    rows = []
    for group in registry.KINDS.values():
        for plugin in registry.plugins(group):
            row = {"kind": plugin.kind, "name": plugin.name, "class": plugin.value, "distribution": plugin.distribution,
                   "version": plugin.version, "state": "installed"}  # fmt: skip
            if load:
                row |= _state(plugin)
            if claims[group, plugin.name] > 1:
                row["state"] = "claimed twice: uninstall one"
            rows.append(row)
    print_table(rows, as_json)
    for fault in registry.all_plugins()[1]:
        say_wrong(fault)


def _state(plugin: Plugin) -> dict[str, str]:
    from genhub.recipe.schema import capabilities

    try:
        return {"state": "fine", "capabilities": ", ".join(capabilities(plugin.load()))}
    except PluginError as error:
        return {"state": f"broken: {error.__cause__!r}", "capabilities": ""}


@app.command("info")
def plugins_info(name: str, as_json: AsJson = False) -> None:
    """Print what a plugin can do, its options, and a recipe."""
    from genhub.recipe.schema import describe_plugin

    described = describe_plugin(name)
    if as_json:
        print_facts(described, as_json)
        return
    for facts in described:
        put("{name} ({kind}): {class}, {distribution} {version}".format(**facts), f"  {facts['about']}")
        if facts["capabilities"]:
            put(f"Capabilities: {', '.join(facts['capabilities'])}")
        put("Options:")
        for key, option in facts["options"].items():
            meaning = f"  # {' '.join(option['meaning'].split())}" if option["meaning"] else ""
            default = "required" if "example" in option else json.dumps(option["default"])
            put(f"  {key}: {default}  ({option['type']}){meaning}")
        if facts["recipe"]:
            put("A recipe:")
            print_facts(facts["recipe"], as_json)


@app.command("new")
def plugins_new(
    name: Annotated[str, typer.Argument(help="Of the folder, the distribution and the plugin: my-model.")],
    kind: Annotated[str, typer.Option(help="model, network, modality, scheduler, trainer, metric or view.")] = "model",
) -> None:
    """Write a plugin of your own that works at once."""
    from genhub.cli.scaffold import new_plugin

    folder = new_plugin(name, kind)
    put(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    put(f"Next: pip install -e {folder} && genhub train {folder}/recipe.yaml && pytest {folder}")


@app.command("check")
def plugins_check(
    name: Annotated[str, typer.Argument(help="A registered name, or module:Class.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Its Config's keys.")] = None,
    kind: Annotated[str | None, typer.Option(help="model, modality, ...: where a name is used by several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a plugin to the contract of its kind. Exit code 1 if it breaks it."""
    from genhub.ground.parsing import read_pairs
    from genhub.testing.suites import suites_of

    values, reports, failed = read_pairs(keys or [], "key=value"), [], False
    for plugin, suite in suites_of(name, values, kind):
        if not as_json:
            put(f"{plugin}: {plugin.value}")
        with suite:
            report = suite.report(shown=(lambda result: None) if as_json else _show_check)
        failed = failed or bool(report.failures)
        reports.append({"plugin": str(plugin), **report.dump()})
        if not as_json:
            put(report.summary)
    if as_json:
        print_facts(reports, as_json)
    if failed:
        raise typer.Exit(1)


def _show_check(result: Result) -> None:
    mark = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}[result.outcome]
    put(f"  {mark:<5} {result.name:<11} {result.message if result.outcome == 'skipped' else result.contract}")
    if result.outcome == "failed":
        for line in filter(None, (result.message, result.where)):
            put(f"        {line}")
