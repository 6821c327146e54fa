"""Layers inside of a model, however deep, by a path that reads like the model."""


def layers_by_path(model, kinds):
    """The layers of some kinds inside of a model.

    Args:
        model: `keras.Model`, built.
        kinds: class or tuple of classes.

    Returns:
        dict of layers by path, such as "text_encoder/block_0/self_attention", sorted, block_2 before block_10.
    """
    found = {}
    # Keras has no public way to the layers inside of a layer.
    for layer in model._flatten_layers():
        if isinstance(layer, kinds):
            path = layer.path or layer.name
            number = sum(known == path or known.startswith(f"{path}#") for known in found)
            found[f"{path}#{number}" if number else path] = layer
    return dict(sorted(found.items(), key=lambda item: _numbers_as_numbers(item[0])))


def matching(paths, name, argument, what):
    """The paths that a name stands for: of the layer itself, or of all inside of the layer that it names.

    Args:
        paths: collection of str.
        name: str, one or several parts of a path, such as "self_attention" or "block_0".
        argument: str, what the name is called, for the message.
        what: str, the kind of layer, for the message.

    Returns:
        list of str.

    Raises:
        ValueError: if there are none, with those that there are.
    """
    found = [path for path in paths if f"/{name}/" in f"/{path}/"]
    if not found:
        there = ", ".join(paths) or "it has none"
        raise ValueError(f"`{argument}` must name {what} of the model ({there}). Received: {argument}={name!r}")
    return found


def _numbers_as_numbers(path):
    parts = path.replace("/", "_/_").replace("#", "_#_").split("_")
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
