"""Modules that ranks import, for the process that they are forked from (launch.py). None may start a thread.

torch and DeepSpeed import those in the list when a model is built, which would cost every rank seconds of CPU time.
"""

import gc
import importlib
import os

import pretrain.jobs.pretraining
import pretrain.jobs.visual_tokenizer
import pretrain.run.loop  # noqa: F401

for name in (
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "numpy.ma",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch._inductor.compiler_bisector",
):
    importlib.import_module(name)

assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
gc.collect()
gc.freeze()  # ranks share these objects; collecting garbage there neither walks nor copies them
