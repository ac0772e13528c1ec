"""The command `farm`: all commands in one table, and the one place where errors become lines."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from farm.cli import control, presets, serve, status, styles, submit, view, weights
from jobs.errors import FarmError, NoFarmError, UsageError

USAGE, NO_FARM, OTHER = 2, 7, 1
"""Exit codes of commands that could not do what was asked; `view.EXIT_CODES` has those of jobs."""

_WORK, _LOOK, _ACT, _RUN, _KEEP = (
    "Render and train",
    "Look",
    "Act on a job",
    "Run a farm",
    "Styles, weights and manifests",
)


class FarmCommands(TyperGroup):
    """A group of commands that ends with a line, a hint and an exit code whatever goes wrong."""

    debug = False

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - the signature is Typer's
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command and exit with its code."""
        _never_fail_to_print()
        try:
            code = super().main(
                args,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except FarmError as error:
            code = self._refuse(error, sys.argv[1:] if args is None else args)
        except typer.TyperException as error:
            code = _wrong_usage(error)
        except typer.Abort:
            code = OTHER
        except Exception as error:  # noqa: BLE001 - the last line of defense: logged whole, shown as one line
            code = self._surprise(error)
        sys.exit(code if isinstance(code, int) else 0)

    def _refuse(self, error: FarmError, args: Sequence[str]) -> int:
        if self.debug:
            traceback.print_exception(error)
        words = [word for word in args[:2] if not word.startswith("-")]
        command = words if words[:1] in (["styles"], ["weights"]) else words[:1]
        _complain(error.message, error.hint or f"see `{' '.join(['farm', *command, '--help'])}`")
        if isinstance(error, NoFarmError):
            return NO_FARM
        return USAGE if isinstance(error, UsageError) else OTHER

    def _surprise(self, error: Exception) -> int:
        if self.debug:
            traceback.print_exception(error)
        where = _log(error)
        _complain(
            f"this should not have happened: {type(error).__name__}: {error}",
            f"the whole story is in {where}",
        )
        return OTHER


def _never_fail_to_print() -> None:
    """Let names that the terminal's encoding cannot show come out as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _complain(message: str, hint: str) -> None:
    console = view.console(stderr=True)
    for line in message.splitlines():
        console.print(view.labeled("error", line, "bold red"), soft_wrap=True)
    if hint:
        console.print(view.labeled("hint", hint, "bold"), soft_wrap=True)


def _wrong_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        # Making the error has printed the help.
        return USAGE
    hint = f"see `{context.command_path if context is not None else 'farm'} --help`"
    _complain(error.format_message().replace("Value error, ", "").rstrip("."), hint)
    return error.exit_code


def _log(error: Exception) -> str:
    """Append the traceback to the log of the command line and return where that is."""
    from farm import folders

    try:
        path = folders.private(folders.state_dir() / "logs") / "cli.log"
        with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"--- {sys.argv}\n")
            traceback.print_exception(error, file=log)
    except (OSError, FarmError) as unwritable:
        return f"no log ({unwritable}); `farm --debug ...` shows it"
    return str(path)


app = typer.Typer(
    cls=FarmCommands,
    help="A render farm for neural style transfer: folders of pictures in, styled pictures out.",
    epilog="Example: farm render photos/ --style candy",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _every_command(
    context: typer.Context,
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)
    ] = False,
) -> None:
    if debug and isinstance(context.command, FarmCommands):
        context.command.debug = True


def _add(example: str, run: Callable[..., None], panel: str) -> None:
    """Make `run` the command that the example calls; the example ends its help."""
    _, name, *_ = example.split()
    app.command(name, epilog=f"Example: {example}", rich_help_panel=panel)(run)


_add("farm render photos/ --style candy --output out", submit.render, _WORK)
_add("farm submit photos/ --style candy --style mosaic --output s3://renders/july", submit.submit, _WORK)
_add("farm train photos/ --style-image painting.jpg --name wave", submit.train, _WORK)
_add("farm extend photo-starry_night --iterations 200", submit.extend, _WORK)
_add("farm status --json", status.status, _LOOK)
_add("farm watch photos-candy", status.watch, _LOOK)
_add("farm wait photos-candy --timeout 600", status.wait, _LOOK)
_add("farm tasks photos-candy", status.tasks, _LOOK)
_add("farm logs photos-candy --follow", status.logs, _LOOK)
_add("farm sheet photos-candy", control.sheet, _LOOK)
_add("farm workers --json", status.workers, _LOOK)
_add("farm pause photos-candy", control.pause, _ACT)
_add("farm resume photos-candy", control.resume, _ACT)
_add("farm cancel photos-candy", control.cancel, _ACT)
_add("farm retry photos-candy", control.retry, _ACT)
_add("farm up --workers 2 --threads 4", serve.up, _RUN)
_add("farm down", serve.down, _RUN)
app.add_typer(styles.commands, name="styles", rich_help_panel=_KEEP)
app.add_typer(weights.commands, name="weights", rich_help_panel=_KEEP)
_add("farm presets crowson", presets.presets, _KEEP)
_add("farm schema > manifest.schema.json", submit.schema, _KEEP)
_add("farm version", serve.version, _KEEP)
