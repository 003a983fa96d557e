"""What ranks import, for the process that they are forked from: see launch.py. It must start no thread."""

import os

import pretrain.train
import pretrain.train_visual_tokenizer  # noqa: F401

assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
