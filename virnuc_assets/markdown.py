"""Text that stays text inside Markdown: ids and messages may hold anything."""


def cell(text: str) -> str:
    """Text for a table cell or a list item, every sign that Markdown or HTML would act on neutralised."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\|`*_[]!~#>" else letter for letter in escaped)
