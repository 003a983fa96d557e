"""ZeRO-3 gathers weights without waiting for the optimizer's update of them. No GPU is needed:

    pip install torch deepspeed==0.19.8
    DS_ACCELERATOR=cpu python zero3_gather_order.py

Two ranks train four linear layers on the CPU, under an accelerator that claims to have streams. Its streams keep vector
clocks: each counts the operations that are launched on it, and knows those of other streams that wait_stream, events
and synchronize told it of. Each all-gather then says whether its stream knows of the last write of the partitions that
it reads. If it does not, a GPU may run the gather before, or during, that write.

Prints a line per step, first for DeepSpeed as it is, then with one wait added after each step. Exits with 1 if a gather
is not ordered, and with 0 otherwise.
"""

import os
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager

import deepspeed
import deepspeed.runtime.zero.partition_parameters as partition_parameters
import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

warnings.filterwarnings("ignore", category=FutureWarning)  # torch 2.13 renames collectives
NUM_RANKS, NUM_STEPS, WIDTH = 2, 5, 32
CONFIG = {
    "train_batch_size": 2 * NUM_RANKS,
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "stage3_prefetch_bucket_size": WIDTH * WIDTH,  # a layer: several gathers per step
        # with persistent parameters, their gather after each step happens to wait for the whole device
        "stage3_param_persistence_threshold": 0,
    },
    # the throughput timer, on by default, happens to wait for the whole device
    "timers": {"throughput": {"enabled": False}},
    "zero_allow_untested_optimizer": True,
}
host = {}
"""What the host has waited for: operations by the name of their stream. Everything launched later comes after it."""


def learn(known, more):
    for name, time in more.items():
        known[name] = max(known.get(name, 0), time)


streams = []


class Stream:
    def __init__(self, *arguments, **options):
        self.name, self.time, self.known = f"stream {len(streams)}", 0, {}
        streams.append(self)

    def clock(self):
        return self.known | {self.name: self.time}

    def launch(self):
        learn(self.known, host)
        self.time += 1

    def wait_stream(self, other):
        learn(self.known, other.clock())

    def wait_event(self, event):
        learn(self.known, event.recorded)

    def synchronize(self):
        learn(host, self.clock())


class Event:
    def __init__(self, *arguments, **options):
        self.recorded = {}

    def record(self, stream=None):
        self.recorded = (stream or current[-1]).clock()

    def synchronize(self):
        learn(host, self.recorded)

    def query(self):
        return False  # a device may be as slow as it likes


current = [Stream()]


class Accelerator(CPU_Accelerator):
    Stream, Event = Stream, Event

    def is_synchronized_device(self):
        return False

    resolves_data_dependency = handles_memory_backpressure = is_synchronized_device

    @contextmanager
    def stream(self, stream):
        current.append(stream)
        yield
        current.pop()

    def current_stream(self, device_index=None):
        return current[-1]

    def default_stream(self, device_index=None):
        return current[0]

    def synchronize(self, device_index=None):
        for stream in streams:
            stream.synchronize()


class Gathers:
    """Counts the all-gathers, and those whose stream does not know of the last write of the partitions."""

    def __init__(self):
        self.num_all = self.num_unordered = 0
        self.last_write = ("", 0)
        write = DeepSpeedZeroOptimizer_Stage3._reassign_or_swap_out_partitioned_parameters
        gather = partition_parameters._dist_allgather_fn
        read_number = torch.Tensor.item

        def writing(*arguments):
            write(*arguments)
            current[-1].launch()
            self.last_write = (current[-1].name, current[-1].time)

        def gathering(*arguments):
            current[-1].launch()
            name, time = self.last_write
            self.num_all += 1
            self.num_unordered += current[-1].clock().get(name, 0) < time
            return gather(*arguments)

        def reading_a_number(tensor):
            current[-1].synchronize()  # as a GPU's tensor does
            return read_number(tensor)

        DeepSpeedZeroOptimizer_Stage3._reassign_or_swap_out_partitioned_parameters = writing
        partition_parameters._dist_allgather_fn = gathering
        torch.Tensor.item = reading_a_number


def train(gathers, is_mended):
    """Return the number of gathers that are not ordered."""
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)))
    optimizer = torch.optim.AdamW(model.parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)
    num_unordered = 0
    for step in range(NUM_STEPS):
        gathers.num_all = gathers.num_unordered = 0
        engine.backward(engine(torch.ones(2, WIDTH)).square().mean())
        engine.step()
        if is_mended:
            coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
            gathering_stream = coordinator._PartitionedParameterCoordinator__allgather_stream
            gathering_stream.wait_stream(current[-1])
        if torch.distributed.get_rank() == 0:
            which = "with the wait" if is_mended else f"deepspeed {deepspeed.__version__}"
            counts = f"{gathers.num_unordered} of {gathers.num_all}"
            print(f"{which}: step {step}: {counts} all-gathers are not ordered behind the last update", flush=True)
        num_unordered += gathers.num_unordered
    engine.destroy()
    return num_unordered


def run_rank():
    set_accelerator(Accelerator())
    torch.Tensor.record_stream = lambda tensor, stream: None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled first, for minutes
    deepspeed.init_distributed("gloo", verbose=False)
    gathers = Gathers()
    num_unordered = train(gathers, is_mended=False)
    num_unordered_mended = train(gathers, is_mended=True)
    assert num_unordered_mended == 0, num_unordered_mended
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(1 if num_unordered else 0)  # without the teardown of process groups


def start_ranks():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen([sys.executable, __file__], env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(NUM_RANKS)
    ]
    sys.exit(max(rank.wait() for rank in ranks))


if __name__ == "__main__":
    run_rank() if "RANK" in os.environ else start_ranks()
