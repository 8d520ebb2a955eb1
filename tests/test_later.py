"""Imports that a command puts off: absent while nobody needs them, and whole as soon as somebody does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

HEAVY = ("torch._dynamo.convert_frame", "sympy", "transformers.modeling_utils",
         "diffusers.pipelines.pipeline_utils", "diffusers.loaders", "torch.distributed.fsdp",
         "torch.distributed.tensor", "scipy.stats.distributions")  # fmt: skip
"""Modules that a training needs none of, each a tenth of a second and more."""


def python(code: str, tmp_path) -> str:
    """Return what a new process prints, with genhub's commands' own way of importing."""
    begin = "from genhub.ground.later import put_off_imports\nput_off_imports()\n"
    command = [sys.executable, "-P", "-c", begin + textwrap.dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["moons-flow", "digits-ddpm", "digits-vae", "moons-gan"])
def test_the_first_step_needs_no_compiler_and_no_transformers(recipe, tmp_path):
    said = python(
        f"""
        import sys
        from genhub.cli import main
        from genhub.training.loop import AccelerateTrainer
        def update(*_):
            print("there:", [name for name in {HEAVY} if name in sys.modules])
            sys.exit(0)
        AccelerateTrainer._log = update
        sys.argv = ["genhub", "train", "{recipe}", "trainer.log_every=1"]
        main()
        """,
        tmp_path,
    )
    assert "there: []" in said


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["moons-flow", "digits-ddpm", "digits-vae", "moons-gan"])
def test_a_preview_and_a_checkpoint_need_none_of_it_either(recipe, tmp_path):
    said = python(
        f"""
        import sys
        import genhub
        genhub.train("{recipe}", ["trainer.max_steps=1"], run_dir="run")
        print("there:", [name for name in {HEAVY} if name in sys.modules])
        """,
        tmp_path,
    )
    assert "there: []" in said


@pytest.mark.slow
def test_what_is_asked_for_is_whole(tmp_path):
    """By name, by submodule, by `import *`; and what is not there says so as ever."""
    said = python(
        """
        import sys
        import torch
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
        optimizer.zero_grad()
        optimizer.step()
        assert "torch._dynamo.eval_frame" not in sys.modules

        import diffusers
        from diffusers import UNet2DModel
        from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
        assert "diffusers.models.transformers.ace_step_transformer" not in sys.modules
        from diffusers import DiTTransformer2DModel, UNet2DConditionModel
        import diffusers.models.transformers as parts
        assert parts.DualTransformer2DModel is DualTransformer2DModel
        assert parts.DiTTransformer2DModel is DiTTransformer2DModel
        assert diffusers.models.unets.UNet2DModel is UNet2DModel
        assert type(parts).__name__ == "module" and parts.__spec__.loader.__class__.__name__ == "SourceFileLoader"

        import diffusers.models.unets as unets
        assert "UNet1DModel" in dir(unets)
        try:
            unets.no_such
        except AttributeError as error:
            print(error)
        """,
        tmp_path,
    )
    assert said == "module 'diffusers.models.unets' has no attribute 'no_such'\n"


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("first", ["import scipy.stats", "from scipy.stats import norm",
                                   "from scipy.stats.distributions import norm", "import scipy; scipy.stats"])  # fmt: skip
def test_schedulers_need_no_statistics_and_others_have_them_whole(first, tmp_path):
    said = python(
        f"""
        import sys
        from diffusers import FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
        print([name for name in sys.modules if name.startswith("scipy.stats.")])
        {first}
        import scipy.stats
        from scipy.stats import beta, norm, qmc
        print(scipy.stats.norm.cdf(0), norm is scipy.stats.norm, beta is scipy.stats.distributions.beta, qmc.Sobol(2).d)
        FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True).set_timesteps(4)
        """,
        tmp_path,
    )
    assert said == "[]\n0.5 True True 2\n"


def test_reading_a_table_needs_no_matlab(tmp_path):
    said = python(
        """
        import sys
        import datasets, pyarrow, pyarrow.parquet
        pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), "t.parquet")
        datasets.disable_progress_bars()
        table = datasets.load_dataset("parquet", data_files="t.parquet", split="train", cache_dir="cache")
        print(table["a"][:], [name for name in sys.modules if name.startswith("scipy.io.")])
        from scipy.io import loadmat
        import scipy.io
        scipy.io.savemat("t.mat", {"a": 3})
        print(loadmat("t.mat")["a"].item(), scipy.io.loadmat("t.mat")["a"].item(), scipy.io.matlab.loadmat is scipy.io.loadmat)
        """,
        tmp_path,
    )
    assert said == "[1, 2] []\n3 3 True\n"


@pytest.mark.parametrize("first", ["import torch._dynamo.config as config", "from torch._dynamo.utils import counters", ""])
def test_the_compiler_leaves_out_what_was_marked_before_it_came(first, tmp_path):
    """A submodule asked for first is one module, not two; what is disabled breaks the graph in two."""
    said = python(
        f"""
        import sys
        import torch

        @torch._disable_dynamo
        def left_out(x):
            return x.numpy().item() + 1

        print(left_out(torch.ones(())))  # before there is a compiler
        assert "torch._dynamo.eval_frame" not in sys.modules
        {first}
        graphs = []
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward
        compiled = torch.compile(lambda x: (x * 2 + left_out(x)).sin(), backend=backend)
        print(compiled(torch.ones(())).item() == torch.tensor(4.0).sin().item(), len(graphs))
        import torch._dynamo.config, torch._dynamo.utils
        assert torch._dynamo.config is torch._dynamo.eval_frame.config
        assert torch._dynamo.utils.counters is torch._dynamo.convert_frame.counters
        for module in (torch._dynamo, torch._dynamo.config, torch._dynamo.utils):
            assert module.__spec__.name == module.__name__
            assert module.__spec__.loader.__class__.__name__ == "SourceFileLoader"
        """,
        tmp_path,
    )
    assert said.splitlines() == ["2.0", "True 2"]


def test_a_setting_of_the_compiler_is_its_setting(tmp_path):
    """Made before it has run, by a name of a submodule."""
    said = python(
        """
        import torch
        torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]).zero_grad()
        import torch._dynamo.config as config
        config.recompile_limit = 2
        graphs = []
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward
        times = torch.compile(lambda x, k: x * k, backend=backend, dynamic=False)
        for k in range(6):
            times(torch.ones(2), k + 2)
        print(len(graphs))
        """,
        tmp_path,
    )
    assert said.splitlines()[-1] == "2"


@pytest.mark.slow
def test_what_is_marked_keeps_its_kind(tmp_path):
    """A class stays a class, and a network a child with weights; a stand-in that was taken by name hands on."""
    said = python(
        """
        import sys
        import torch
        from torch._dynamo import allow_in_graph, graph_break
        assert "torch._dynamo.eval_frame" not in sys.modules

        @torch.compiler.disable
        class Thing:
            pass
        parts = torch.nn.Module()
        parts.part = torch.compiler.disable(torch.nn.Linear(2, 2))
        print(isinstance(Thing, type), sorted(parts.state_dict()))
        graphs = []
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward
        def broken(x):
            x = x + 1
            graph_break()
            return x * 2
        torch.compile(broken, backend=backend)(torch.ones(2))
        def whole(x):
            return x
        allow_in_graph(whole)
        print(len(graphs), id(whole) in torch._dynamo.trace_rules._allowed_callable_ids)
        """,
        tmp_path,
    )
    assert said.splitlines() == ["True ['part._orig_mod.bias', 'part._orig_mod.weight']", "2 True"]  # as torch has them


@pytest.mark.slow
def test_threads_that_import_do_not_wait_for_each_other(tmp_path):
    """One asks the compiler for something, one imports a submodule of it, one what it needs."""
    said = python(
        """
        import faulthandler, importlib, threading
        import torch
        torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
        faulthandler.dump_traceback_later(60, exit=True)
        work = [lambda: torch._dynamo.config, lambda: importlib.import_module("torch._dynamo.utils"),
                lambda: importlib.import_module("sympy"), lambda: importlib.import_module("torch._dynamo.convert_frame")]
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(torch._dynamo.convert_frame.counters is torch._dynamo.utils.counters)
        """,
        tmp_path,
    )
    assert said == "True\n"


@pytest.mark.slow
def test_what_is_installed_is_read_when_somebody_asks(tmp_path):
    said = python(
        """
        import importlib.metadata as metadata
        reads = []
        files = metadata.Distribution.files
        metadata.Distribution.files = property(lambda self: reads.append(self) or files.fget(self))
        from diffusers import UNet2DModel
        print(len(reads))
        found = metadata.packages_distributions()
        print(found["torch"], found.get("no_such"), len(found) == len(dict(found)) > 20, len(reads) > 20)
        """,
        tmp_path,
    )
    assert said.splitlines() == ["0", "['torch'] None True True"]


@pytest.mark.slow
def test_a_command_looks_for_garbage_seldom_until_it_trains(tmp_path):
    said = python(
        """
        import gc, sys
        usual = gc.get_threshold()
        from genhub.__main__ import main
        from genhub.run import prepare, train
        from genhub.training.loop import AccelerateTrainer

        def told(*_):
            print("as usual:", gc.get_threshold() == usual, "frozen:", gc.get_freeze_count() > 100_000)

        def prepare_run(*given):
            told()
            return prepare.prepare_run(*given)

        train.prepare_run, AccelerateTrainer._log = prepare_run, told
        sys.argv = "genhub train moons-flow trainer.max_steps=1 trainer.sample_every=null".split()
        main()
        """,
        tmp_path,
    )
    assert [line for line in said.splitlines() if line.startswith("as usual")] == [
        "as usual: False frozen: False", "as usual: True frozen: True"
    ]  # fmt: skip
