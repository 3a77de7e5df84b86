"""docs/settings.md, of the typed settings: `python -m virnuc_assets_tests.settings_page` writes it.

A key is described by the comment of virnuc.toml, else by that of its field.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from virnuc_assets.settings import Settings

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs/settings.md"
HEAD = """# Settings

`virnuc.toml` holds every choice that changes a result; an unknown key or an impossible value is refused with its key.
Nothing is set through environment variables. The file in the repository shows every section with its defaults.

This page is generated from `virnuc_assets/settings.py`; see [development](development.md#these-pages).
"""
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
_KEY = re.compile(r'(?:# )?(\w+) = (?:"[^"]*"|[^#"])*?\s+# (.+)')


def page() -> str:
    """The whole page."""
    schema = Settings.model_json_schema()
    comments = _comments((PROJECT / "virnuc.toml").read_text(encoding="utf-8"))
    parts = [HEAD, *_table({"properties": {"profile": schema["properties"]["profile"]}}, comments[""])]
    for name, described in schema["properties"].items():
        if reference := re.search(r"#/\$defs/(\w+)", json.dumps(described)):
            section = schema["$defs"][reference[1]]
            title = f"[{name}]" if "properties" not in described and "type" not in described else f"[{name}.NAME]"
            about = " ".join(section["description"].split())
            parts += [f"## {title}\n", f"{about}\n", *_table(section, comments[name])]
    return "\n".join(parts)


def _comments(text: str) -> Mapping[str, dict[str, str]]:
    """Section → key → what virnuc.toml says of it; a comment continues in the lines that have nothing else."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    section, key = "", ""
    for line in text.splitlines():
        if head := re.match(r"(?:# )?\[(\w+)(?:\.(\w+))?\](?:\s+# (.+))?", line):
            section, key = head[1], head[2] or ""
            found[section][key] = head[3] or ""
        elif given := _KEY.match(line):
            key = given[1]
            found[section][key] = given[2]
        elif more := re.match(r" +# (.+)", line):
            if key:
                found[section][key] += f" {more[1]}"
        else:
            key = ""
    return found


def _table(section: Mapping[str, Any], comments: Mapping[str, str]) -> Iterator[str]:
    yield "| key | value | default | |\n|---|---|---|---|"
    for key, described in section["properties"].items():
        text = comments.get(key) or described.get("description", "")
        default = described.get("default")
        shown = "" if default is None else f"`{json.dumps(default)}`"
        shown = "required" if key in section.get("required", ()) else shown
        yield f"| `{key}` | {_kind(described)} | {shown} | {' '.join(text.split()).removesuffix('.')} |"
    yield ""


def _kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if schema.get("type") == "object":
        return f"table of {_kind(schema['additionalProperties'])}"
    bounds = " and ".join(
        f"{character} {schema[bound]:.10g}" for bound, character in _BOUNDS.items() if bound in schema
    )
    kind = "date" if schema.get("format") == "date" else _TYPES[schema["type"]]
    return f"{kind} {bounds}".strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
