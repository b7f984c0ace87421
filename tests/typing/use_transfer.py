"""What a user writes to transfer a network; read by the type checker, never run."""

import keras
import numpy as np

from kregkit import transfer


def carry_over(x: np.ndarray, y: np.ndarray) -> keras.Model:
    body = transfer.backbone("MobileNetV2", weights=None, input_shape=(96, 96, 3))
    model = transfer.replace_head(body, 5, pooling="average")
    transfer.freeze(model, until="block_12_add")
    transfer.unfreeze(model, start=model.layers[-3])
    likeness = transfer.measure_similarity(model, (x, y), stages=3)
    plan = transfer.recommend(len(x), 5, likeness)
    transfer.fine_tune(model, (x, y), (x, y), plan, callbacks=[keras.callbacks.TerminateOnNaN()])
    model.fit(x, y, callbacks=[transfer.GradualUnfreeze([(0, "head"), (2, ["block_12_add"])])])
    return transfer.features(model, ["block_3_add", "block_12_add"], pooling="max")
