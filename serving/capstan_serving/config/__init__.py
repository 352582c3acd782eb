"""A model's configuration: Triton's `config.pbtxt`, or what follows from the ONNX file when there is none.

`schema` has its messages, `refusals` what of them is not supported; `document` reads and writes them,
`tensors` holds them against the model, `plan` says what they mean for the server, and `warmup` makes the
requests that a model answers before it is ready. All are pure but for the files of labels and warm-up data,
which the repository finds.
"""
