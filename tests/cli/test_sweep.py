"""What a user of ``sweep`` sees: a plan, results, or one error."""

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("small_data")
CODE = """
from personalib.base.provenance import results_dir
(results_dir() / "found.csv").write_text(f"x,y\\n1,{1 / seed}\\n2,{2 / seed}\\n")
"""


@pytest.fixture
def declare(write_notebook, tmp_path):
    notebook = write_notebook(CODE, parameters="seed: int = 1")

    def write(seeds):
        show = {"table": "found", "x": "x", "y": "y", "over": "seed"}
        plan = {"chapter": str(notebook), "vary": {"seed": seeds}, "show": show}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plan))

    return write


def test_a_sweep_is_planned_and_run_and_its_failures_are_told(call, declare, tmp_path):
    declare([1, 0])
    code, out, _ = call("tiny.yaml", "--plan")
    assert code == 0 and out.startswith("01_tiny, 2 points, 0 done, in results/sweeps/tiny")
    assert [line.split() for line in out.splitlines()[-2:]] == [["1", "to", "do"], ["0", "to", "do"]]
    assert not (tmp_path / "results").exists()

    code, out, err = call("tiny.yaml")
    folder = tmp_path / "results" / "sweeps" / "tiny"
    assert code == 2 and "Traceback" not in err
    assert out == "tiny: 1 of 2 points done; tables and figure in results/sweeps/tiny\n"
    assert err.splitlines()[-2:] == [
        "error: 1 point failed; the tables hold the others",
        "seed=0: 01_tiny: cell 3 (Does it run?) failed: ZeroDivisionError: division by zero; "
        "the notebook up to there is results/sweeps/tiny/points/seed=0/01_tiny.failed.ipynb",
    ]
    assert "tiny: 100%" in err, "the bar is full: each point was tried"
    assert (folder / "tables" / "found.csv").read_text() == "seed,x,y\n1,1,1.0\n1,2,2.0\n"
    assert (folder / "figures" / "found.png").exists()

    code, out, _ = call("tiny.yaml", "--plan")
    assert [line.split() for line in out.splitlines()[-2:]] == [["1", "done"], ["0", "failed"]]

    declare([1])
    assert call("tiny.yaml")[:2] == (0, "tiny: 1 of 1 points done; tables and figure in results/sweeps/tiny\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tiny.yaml"], "tiny.yaml: vary.seed: 01_tiny: parameter 'seed' is int (default 1), not 'x'"),
        (["nowhere"], "nowhere: no such sweep"),
        (["tiny.yaml", "--workers", "2"], "--address and --workers are of a cluster; add --engine ray"),
        (["tiny.yaml", "--engine", "ray", "--address", "here"], "give HOST:PORT of the cluster's head, or auto"),
    ],
)
def test_what_cannot_be_run_is_one_error_and_leaves_nothing(call, declare, tmp_path, arguments, problem):
    declare(["x"])
    code, out, err = call(*arguments)
    assert code == 2 and not out and "Traceback" not in err and problem in err
    assert not (tmp_path / "results").exists()
