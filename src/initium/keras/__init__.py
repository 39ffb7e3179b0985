"""initium for Keras: initializers with the names and arguments of Keras, for ``kernel_initializer=``.

Examples
--------
>>> import keras
>>> from initium.keras import HeNormal
>>> layer = keras.layers.Dense(3, kernel_initializer=HeNormal(seed=7, name="w"))
>>> layer.build((None, 2))
>>> keras.ops.convert_to_numpy(layer.kernel.value)
array([[ 0.4220039 ,  1.2778116 , -1.0312073 ],
       [-0.30426314, -0.03610017, -1.0666722 ]], dtype=float32)
"""

from __future__ import annotations

from initium.keras.initializers import (
    STFT,
    Catalogued,
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Identity,
    LecunNormal,
    LecunUniform,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)

__all__ = [
    "STFT",
    "Catalogued",
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
]
