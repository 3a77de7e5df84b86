"""GenBank text written by hand, column by column as the release notes give them."""

from pathlib import Path

GENOMES = Path(__file__).parents[2] / "data" / "genomes"


def feature(key: str, location: str = "1..9", *qualifiers: str) -> str:
    """Qualifiers as they are in a file, without the slash: `pseudo`, `translation="MK"`; long ones are wrapped."""
    lines = [f"     {key:<16}{location}"]
    for qualifier in qualifiers:
        text = f"/{qualifier}"
        lines += [" " * 21 + text[start : start + 58] for start in range(0, len(text), 58)]
    return "".join(f"{line}\n" for line in lines)


def cds(protein: str, *qualifiers: str, location: str = "1..9") -> str:
    return feature("CDS", location, *qualifiers, f'translation="{protein}"')


def sequence(symbols: str) -> str:
    lines = [
        f"{start + 1:>9} " + " ".join(symbols[k : k + 10] for k in range(start, min(start + 60, len(symbols)), 10))
        for start in range(0, len(symbols), 60)
    ]
    return "ORIGIN\n" + "".join(f"{line}\n" for line in lines)


def entry(record_id: str, symbols: str, *features: str, length_nt: int | None = None, tail: str | None = None) -> str:
    """A record; without bases of its own, if `tail` is given, which replaces ORIGIN and its lines."""
    name = record_id.split(".")[0]
    length = len(symbols) if length_nt is None else length_nt
    return (
        f"LOCUS       {name:<16} {length:>11} bp    DNA     linear   VRL 01-JAN-2024\n"
        f"DEFINITION  made by hand.\nACCESSION   {name}\nVERSION     {record_id}\nKEYWORDS    .\n"
        f"REFERENCE   1  (bases 1 to {length})\n  AUTHORS   Nobody\nFEATURES             Location/Qualifiers\n"
        f'     source          1..{length}\n                     /organism="none"\n'
        f"{''.join(features)}{sequence(symbols) if tail is None else tail}//\n"
    )
