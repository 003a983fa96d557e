"""What surrounds the network's matrix products, one operation a file.

A fused operation's file holds the formula and the bytes it moves, a reference in plain torch that defines it, Triton
kernels for forward and backward, and one public function that takes the backend as an argument. Linear layers and the
heads' loss are plain torch with autograd functions of their own.

Shapes in these files: N packed rows, D dim, F ffn dim, E experts (1 to 3), B samples.
"""
