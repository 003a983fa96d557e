"""How are the operations around the network's matrix products fused? One operation per file.

The file of a fused operation has the formula and the bytes it moves, a reference in plain torch that defines it, Triton
kernels for forward and backward, and one public function that takes the backend as an argument. Linear layers and the
heads' loss are plain torch with autograd functions of their own.

Three rules hold in all of them:

- Row indices are int64 before they are multiplied by a width: N * F exceeds 2^31 from 350,000 rows of the giant on, and
  an offset that wraps around reads other memory without an error.
- Gradients of parameters are summed in a fixed order, never by atomics: the same bits in every run, so that a resumed
  run continues exactly and a difference is a mistake.
- Backward saves parameters themselves, which ZeRO-3 gathers again, or copies of them, never views: a view would keep
  the memory of the gathered block alive until backward.

Shapes in these files: N packed rows, D dim, F ffn dim, E experts (1 to 3), B samples.
"""
