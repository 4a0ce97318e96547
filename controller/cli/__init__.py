"""The commands `sandbox-controller` and `kubectl-sandbox` (so `kubectl sandbox …` works).

A command is a function with typer's annotations and a line in a table below; its module is imported when it is called
or listed in a help text, so a module keeps heavy imports inside its function. Expected errors are raised as Failure.
"""

from controller.cli.program import Table, kubectl_completion, run_program

SANDBOX: Table = {
    "run": "controller.cli.sandbox_run:run",
    "exec": "controller.cli.sandbox_exec:exec_",
    "cp": "controller.cli.sandbox_cp:cp",
    "logs": "controller.cli.sandbox_logs:logs",
    "ls": "controller.cli.sandbox_ls:ls",
    "rm": "controller.cli.sandbox_rm:rm",
    "top": "controller.cli.sandbox_top:top",
}
SANDBOX_HELP = """Run code in sandboxes, through the controller's HTTP API.

Its address is --api or SANDBOX_API. The exit code is the program's own; 125 where this command itself fails,
124 where the program's time was over, 130 after Ctrl-C, which ends the program in the sandbox too."""

CONTROLLER: Table = {
    "run": "controller.cli.run:run",
    "dev": "controller.cli.dev:dev",
    "demo": "controller.cli.demo:demo",
    "doctor": "controller.cli.doctor:doctor",
    "plan": "controller.cli.plan:plan",
    "delete-all": "controller.cli.delete_all:delete_all",
    "sandbox": (SANDBOX_HELP, SANDBOX),
    "sbx": (SANDBOX_HELP, SANDBOX),
}
CONTROLLER_HELP = "Run untrusted code in hardened sandboxes described as Kubernetes objects."


def main() -> None:
    """`sandbox-controller`."""
    run_program("sandbox-controller", CONTROLLER_HELP, CONTROLLER)


def kubectl_main() -> None:
    """`kubectl-sandbox`, which kubectl calls for `kubectl sandbox`."""
    run_program("kubectl sandbox", SANDBOX_HELP, SANDBOX)


def kubectl_complete_main() -> None:
    """`kubectl_complete-sandbox`, which kubectl calls to complete `kubectl sandbox`."""
    kubectl_completion("kubectl sandbox", SANDBOX_HELP, SANDBOX)
