"""Names of runtimes, for command lines; imports nothing."""

# torch: bf16 on a GPU, f32 on a CPU.
RUNTIMES = ("auto", "torch", "openvino-f32", "openvino-bf16")
