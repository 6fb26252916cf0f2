"""The entry of the command ``advjax``: signals meet a handler before jax is there."""

import sys

from experiments import interrupts


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        with interrupts.handled():
            from experiments import command

            return command.main()
    except interrupts.Interrupted as error:
        print(f"advjax: stopped by {error.name} at its start", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(main())
