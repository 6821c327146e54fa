"""The package as a whole: what importing it costs."""

import subprocess
import sys


def test_importing_the_package_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys, keras_attention; "
        "heavy = {'keras', 'tensorflow', 'grpc', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert keras_attention.serving.__all__; "
        "assert 'layers' in dir(keras_attention)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_attribute_is_an_attribute_error():
    import keras_attention

    assert not hasattr(keras_attention, "nothing")
    assert not hasattr(keras_attention.serving, "nothing")
