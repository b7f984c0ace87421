"""Moves pixels: exact copies by rows and columns, and one bilinear resampling for everything else.

Coordinates are in pixels, measured from the image's centre, x to the right and y down. A transform is written as
steps from an output pixel back to the position in the input that it shows.
"""

import tensorflow as tf


def sizes(images):
    """Returns height and width, as integers where they are known and tensors where not."""
    dynamic = tf.shape(images)
    return tuple(images.shape[axis] if images.shape[axis] is not None else dynamic[axis] for axis in (1, 2))


def compiled(function, images):
    """Returns `function` under XLA, where the images' size is fixed; sizes that change would compile each time."""
    jit = images.shape[1:].is_fully_defined()
    return tf.function(function, jit_compile=True, autograph=False) if jit else function


def affine(a, b, tx, c, d, ty):
    """Returns matrices `(batch, 3, 3)` with `x' = a x + b y + tx`, `y' = c x + d y + ty`, from scalars or vectors."""
    reference = next(value for value in (a, b, tx, c, d, ty) if getattr(value, "shape", None) not in (None, ()))
    rows = [value + tf.zeros_like(reference) for value in (a, b, tx, c, d, ty)]
    zero, ones = tf.zeros_like(reference), tf.ones_like(reference)
    return tf.reshape(tf.stack([*rows, zero, zero, ones], -1), (-1, 3, 3))


def coordinates(steps, height, width):
    """Returns x and y, each `(batch, height, width)`: where each output pixel lies in the input, from its centre.

    Args:
        steps: List, first operation first, of `("affine", matrices)` and `("radial", coefficients, scales)`, each
            from an operation's output back to its input. Neighbouring matrices are multiplied first.
        height, width: The output's size.
    """
    y = tf.range(tf.cast(height, tf.float32)) - (tf.cast(height, tf.float32) - 1) / 2
    x = tf.range(tf.cast(width, tf.float32)) - (tf.cast(width, tf.float32) - 1) / 2
    y, x = y[None, :, None], x[None, None, :]
    pending = None
    for kind, *values in [*reversed(steps), ("end",)]:
        if kind == "affine":
            pending = values[0] if pending is None else values[0] @ pending
            continue
        if pending is not None:
            m = pending[:, :, :, None, None]
            x, y = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2], m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
            pending = None
        if kind == "radial":
            coefficient, scale = values[0][:, None, None], values[1]
            factor = 1 + coefficient * (x * x + y * y) * scale
            x, y = x * factor, y * factor
    return x, y


def _settle(position, size, fill):
    """Brings positions into [0, size - 1]; for a constant fill, also says which were inside."""
    top = tf.cast(size, tf.float32) - 1
    inside = (position >= -0.5) & (position <= top + 0.5) if fill == "constant" else None
    if fill == "reflect":
        # The edge pixel is repeated: d c b a | a b c d | d c b a.
        period = 2 * (top + 1)
        position = tf.math.floormod(position + 0.5, period)
        position = tf.minimum(position, period - position) - 0.5
    return tf.clip_by_value(position, 0.0, top), inside


def warp(images, steps, height, width, fill, masks=None):
    """Resamples images once: bilinear between pixel centres; masks by the nearest pixel.

    Args:
        images: `(batch, h, w, channels)`, uint8 or float.
        steps: As for `coordinates`.
        height, width: The output's size.
        fill: `"constant"` shows zeros outside the image (whose border is half a pixel beyond the outermost centres),
            `"nearest"` the edge, `"reflect"` the mirror image.
        masks: `(batch, h, w)` or `(batch, h, w, channels)` of any type, or `None`.

    Returns:
        float32 images `(batch, height, width, channels)` in the input's units, and the masks.
    """
    input_height, input_width = sizes(images)
    kinds = [step[0] for step in steps]
    stride = input_width + 2

    def positions(*tensors):
        tensors = list(tensors)
        rebuilt = [(kind, *[tensors.pop(0) for _ in range(1 if kind == "affine" else 2)]) for kind in kinds]
        x, y = coordinates(rebuilt, height, width)
        x, inside_x = _settle(x + (tf.cast(input_width, tf.float32) - 1) / 2, input_width, fill)
        y, inside_y = _settle(y + (tf.cast(input_height, tf.float32) - 1) / 2, input_height, fill)
        if inside_x is not None:
            # To the right of the image there are two columns of zeros.
            x = tf.where(inside_x & inside_y, x, tf.cast(input_width, tf.float32))
        left, top = tf.floor(x), tf.floor(y)
        first = tf.range(tf.shape(x)[0]) * ((input_height + 1) * stride)
        index = first[:, None, None] + tf.cast(top, tf.int32) * stride + tf.cast(left, tf.int32)
        return index, x - left, y - top

    def interpolate(padded, index, across, down):
        pixels = tf.reshape(padded, (-1, padded.shape[-1]))

        def neighbour(offset):
            return tf.cast(tf.gather(pixels, index + offset), tf.float32)

        across, down = across[..., None], down[..., None]
        above, below = neighbour(0), neighbour(stride)
        above += across * (neighbour(1) - above)
        below += across * (neighbour(stride + 1) - below)
        return above + down * (below - above)

    # Three compiled pieces and not one: XLA would compute the coordinates again for each channel.
    flat = [tensor for step in steps for tensor in step[1:]]
    index, across, down = compiled(positions, images)(*flat)
    padded = tf.pad(images, [[0, 0], [0, 1], [0, 2], [0, 0]])
    result = compiled(interpolate, images)(padded, index, across, down)
    if masks is not None:
        flat_mask = masks if masks.shape.rank == 4 else masks[..., None]
        nearest = index + tf.cast(across >= 0.5, tf.int32) + tf.cast(down >= 0.5, tf.int32) * stride
        pixels = tf.reshape(tf.pad(flat_mask, [[0, 0], [0, 1], [0, 2], [0, 0]]), (-1, flat_mask.shape[-1]))
        moved = tf.gather(pixels, nearest)
        masks = moved if masks.shape.rank == 4 else moved[..., 0]
    return result, masks


def copy(images, moves, height, width, margin, black=0):
    """Copies whole pixels: `out[i, j] = in[row(i), column(j)]`, `black` outside.

    Args:
        images: `(batch, h, w, ...)`, any type: images or masks.
        moves: Pair, for rows and for columns, of `(flipped, shift)`: Boolean and int32 vectors; the input position
            is `shift + (size - 1 - i if flipped else i)`.
        height, width: The output's size.
        margin: Integer, how far positions may lie outside; 0 if none does.
        black: Number, what shows there.
    """

    def positions(flipped, shift, size, limit):
        i = tf.range(size)[None, :]
        position = shift[:, None] + tf.where(flipped[:, None], size - 1 - i, i)
        return tf.clip_by_value(position, 0, limit - 1), (position >= 0) & (position < limit)

    def run(images, *moves):
        rest = images.shape.rank - 3
        limits = sizes(images)
        rows, above = positions(*moves[:2], height, limits[0])
        columns, beside = positions(*moves[2:], width, limits[1])
        result = tf.gather(images, rows, batch_dims=1)
        columns = tf.broadcast_to(columns[:, None, :], tf.shape(result)[:3] * [1, 1, 0] + [0, 0, width])
        result = tf.gather(result, columns, batch_dims=2)
        if not margin:
            return result
        # Cheaper than to look into a padded copy.
        inside = tf.reshape(above[:, :, None] & beside[:, None, :], (-1, height, width, *[1] * rest))
        return tf.where(inside, result, tf.cast(black, images.dtype))

    return compiled(run, images)(images, *moves[0], *moves[1])


def compose_moves(first, second, middle, size):
    """Returns the move that does `first` (to `middle` pixels) and then `second` (to `size` pixels)."""
    (flip_one, shift_one), (flip_two, shift_two) = first, second
    shift = shift_one + tf.where(flip_one, middle - shift_two - size, shift_two)
    return tf.math.logical_xor(flip_one, flip_two), shift


def move(group, images, masks, value_range, black):
    """Applies geometric operations as one: by copying where all of them are exact, else by one resampling.

    Args:
        group: List of `(operation, u)`, with `u` the operation's draws, or `None` for its central version at test time.
        images, masks: As for `warp`.
        value_range: The `ValueRange` to which uint8 images come if they are resampled.
        black: Number, what shows outside the images; 0 for uint8 images.

    Returns:
        Images, of their own type where they were only copied, and the masks.
    """
    height, width = sizes(images)
    operations = [operation for operation, _ in group]
    batch = tf.shape(images)[0]
    if all(operation.exact for operation in operations):
        moves = None
        for operation, u in group:
            out = operation.output_size(height, width)
            next_moves = operation.central(batch, height, width) if u is None else operation.move(u, height, width)
            if moves is not None:
                next_moves = tuple(compose_moves(*each) for each in zip(moves, next_moves, (height, width), out))
            moves, (height, width) = next_moves, out
        # Composed crops can look past the padding of the first one: the second's own padding lies there.
        margin = sum(operation.margin for operation in operations)
        copied = copy(images, moves, height, width, margin, black)
        return copied, None if masks is None else copy(masks, moves, height, width, margin)
    steps, (height, width) = steps_of(group, batch, height, width)
    is_bytes = images.dtype == tf.uint8
    fill = fill_of(operations)
    if not is_bytes:
        images = tf.cast(images, tf.float32)
    # `warp` shows zeros outside.
    images, masks = warp(images - black if black else images, steps, height, width, fill, masks)
    if is_bytes:
        images = value_range.scaled(images)
    return images + black if black else images, masks


def fill_of(operations):
    """Returns what shows outside the images where these operations are applied as one."""
    return next((operation.fill for operation in operations if operation.fill is not None), "constant")


def steps_of(group, batch, height, width):
    """Returns the steps of geometric operations from their output back to their input, and the output's size.

    Args:
        group: As for `move`.
        batch: The number of images.
        height, width: Their size.
    """
    steps = []
    for operation, u in group:
        if u is not None:
            steps += operation.steps(u, height, width)
        elif operation.exact:
            steps += _central_steps(operation, batch, height, width)
        else:
            steps += operation.central_steps(batch, height, width)
        height, width = operation.drawn_size(u, height, width)
    return steps, tuple(_one_size(size, [operation for operation, _ in group]) for size in (height, width))


def _one_size(size, operations):
    """Returns the one number in a vector of sizes."""
    if not tf.is_tensor(size) or not size.shape.rank:
        return size
    if size.shape[0] != 1:
        raise ValueError(
            "Images of a batch must come out in one size: let a crop follow at once, such as "
            f"`RandomCrop(0, size=224)`. Received: operations={operations}"
        )
    return size[0]


def _central_steps(operation, batch, height, width):
    moves = operation.central(batch, height, width)
    steps = []
    for (_, shift), size, out in zip(moves, (height, width), operation.output_size(height, width)):
        steps.append(tf.cast(shift, tf.float32) + tf.cast(out - size, tf.float32) / 2)
    return [("affine", affine(1.0, 0.0, steps[1], 0.0, 1.0, steps[0]))]
