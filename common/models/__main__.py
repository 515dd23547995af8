"""List the networks of a family: `python -m common.models tfkd`, mtkd_rl or mdistiller."""

from common.command_line import ArgumentParser, cli_main
from common.models.registry import FAMILIES, list_models


@cli_main
def main() -> None:
    parser = ArgumentParser(prog="python -m common.models", description=__doc__)
    parser.add_argument("family", nargs="?", choices=list(FAMILIES), help="one family; otherwise all")
    family = parser.parse_args().family
    for name in [family] if family else FAMILIES:
        print(*([] if family else [f"{name}:"]), *list_models(name), sep="\n" if family else " ")


if __name__ == "__main__":
    main()
