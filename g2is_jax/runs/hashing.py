"""Content hashes of files, by which a stage knows its inputs."""

import hashlib

from etils import epath

from g2is_jax.runs.errors import InputError

WHOLE_BYTES = 256 * 2**20  # larger files are hashed in samples
SAMPLES, SAMPLE_BYTES = 32, 2**20


def file_hash(path: epath.PathLike) -> str:
    """Returns the sha256 of a file's bytes.

    Above 256 MiB: of its size and of 32 evenly spaced blocks of 1 MiB, the first and the last among
    them. That tells checkpoints apart without reading them, but can miss a change between blocks.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; check the path")
    size = file.stat().length
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        if size <= WHOLE_BYTES:
            while block := stream.read(SAMPLE_BYTES):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f"sampled {size} ".encode())
        for sample in range(SAMPLES):
            stream.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
