import subprocess
import sys


def test_onnx_runtime_is_told_not_to_report_home_before_it_is_imported():
    program = (
        "import os, sys; import capstan_serving.settings; assert 'onnxruntime' not in sys.modules;"
        "import capstan_serving.backends.onnx; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert "telemetry" not in done.stderr
