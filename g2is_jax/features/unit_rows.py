"""Unit rows on devices, and their cosines.

Rows stay in their own dtype in device memory. A cosine of two rows is the product of their stored
values over their lengths, accumulated in float32 (int8: in whole numbers, exactly), so selectors
see the rows as they stand, whatever a row's scale is, and no float32 copy is made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from g2is_jax.features import rows_on_disk
from g2is_jax.features.rows import LARGEST_INT8, Rows, check_finite, divisors
from g2is_jax.features.rows_on_disk import UnitRowsOnDisk
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import DATA, on_host, spans_processes

FEWEST_COLUMNS = 4  # of a product: for fewer, XLA on a CPU makes a float32 copy of the rows
DIGITS, DIGIT_BASE = 3, 254  # an int8 digit is a whole number from -127 to 127
WIDEST_INT8 = (2**31 - 1) // LARGEST_INT8**2  # values whose products sum to an int32


class UnitRows(NamedTuple):
    """Rows on devices; a value times its row's inverse length is the unit row's value."""

    values_NP: jax.Array
    inverse_length_N: jax.Array  # 0 for a zero row
    squared_N: jax.Array  # squared length as selectors see it: 1, or 0 for a zero row
    bits_NP: jax.Array | None  # of bfloat16 rows on a CPU, see _gathered


AnyRows = UnitRows | UnitRowsOnDisk


def unit_rows_of(rows: Rows, mesh: Mesh | None) -> AnyRows:
    """The rows on the device, or shared out over a mesh with zero rows added until it divides; or
    left on disk, where they are there and one process is to use them.

    InputError names a row that is not finite.
    """
    if rows.on_disk and not spans_processes(mesh):
        return rows_on_disk.on_disk(rows)
    if rows.scales_N is not None and rows.shape[1] > WIDEST_INT8:
        raise InputError(
            f"int8 rows of {rows.shape[1]} values: products of more than {WIDEST_INT8} do not fit "
            "32 bits; store the features as bfloat16, or project them"
        )
    values_NP = over_rows(rows.values_NP, mesh)
    on_cpu = jax.default_backend() == "cpu"
    in_turn = on_cpu and mesh is None and values_NP.dtype == jnp.int8
    lengths_N = _lengths_in_turn(values_NP) if in_turn else row_lengths(values_NP)
    finite_N = np.isfinite(on_host(lengths_N)[: len(rows)])
    if rows.scales_N is not None:
        scales_N = np.asarray(rows.scales_N)
        finite_N &= np.isfinite(scales_N) & (scales_N >= 0)
        lengths_N = lengths_N * over_rows((scales_N > 0).astype(np.float32), mesh)
    check_finite(finite_N, "pool row")
    bits_NP = None
    if values_NP.dtype == jnp.bfloat16 and on_cpu:
        bits_NP = over_rows(np.asarray(rows.values_NP).view(np.uint16), mesh)
    inverse_N, squared_N = _inverse_and_squared(lengths_N)
    return UnitRows(values_NP, inverse_N, squared_N, bits_NP)


def over_rows(array, mesh: Mesh | None, fill=0) -> jax.Array:
    """An array over N on the device, or padded with `fill` and cut over the mesh along N."""
    if mesh is None:
        return jax.device_put(array)  # jnp.asarray would copy what a CPU can take over
    count = len(array)
    shape = (count + -count % mesh.size, *array.shape[1:])

    def share(place: tuple[slice, ...] | None) -> np.ndarray:
        assert place is not None, "the array is not a scalar"
        start, stop, _ = place[0].indices(shape[0])
        own = np.asarray(array[start:stop])
        padding = [(0, stop - start - len(own))] + [(0, 0)] * (own.ndim - 1)
        return np.pad(own, padding, constant_values=fill) if stop > count else own

    return jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(DATA)), share)


@jax.jit
def row_lengths(features_NP) -> jax.Array:
    """L2 norm of each row's values, computed in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(features_NP.astype(jnp.float32)), axis=1))


@jax.jit
def _lengths_in_turn(features_NP) -> jax.Array:
    """L2 norm of each row, row by row: XLA on a CPU would make a float32 copy of many int8 rows."""
    return lax.map(lambda row_P: row_lengths(row_P[None])[0], features_NP)


@jax.jit
def _inverse_and_squared(lengths_N):
    has_length_N = lengths_N > 0
    inverse_N = jnp.where(has_length_N, 1 / divisors(lengths_N), 0)
    return inverse_N, has_length_N.astype(jnp.float32)


def unit_rows(rows: AnyRows, chosen_L) -> jax.Array:
    """The rows of these numbers as float32 unit vectors, or zero, [L, P]."""
    inverse_L = jnp.take(rows.inverse_length_N, chosen_L, mode="clip")
    return _gathered(rows, chosen_L).astype(jnp.float32) * inverse_L[:, None]


def cosines_to_rows(rows: AnyRows, chosen_L, others: AnyRows | None = None) -> jax.Array:
    """Cosines of the rows of these numbers to all rows, or to all others, [L, N]; one read of the
    features."""
    values_LP = _gathered(rows, chosen_L)
    inverse_L = jnp.take(rows.inverse_length_N, chosen_L, mode="clip")
    return cosines_to_values(rows if others is None else others, values_LP, inverse_L)


def taken_rows(rows: AnyRows, chosen_L) -> UnitRows:
    """The rows of these numbers as rows of their own, in memory."""
    inverse_L, squared_L = (
        jnp.take(of_N, chosen_L, mode="clip") for of_N in (rows.inverse_length_N, rows.squared_N)
    )
    values_LP, bits_LP = _gathered(rows, chosen_L), None
    if isinstance(rows, UnitRows) and rows.bits_NP is not None:
        bits_LP = jnp.take(rows.bits_NP, chosen_L, 0, mode="clip")
    return UnitRows(values_LP, inverse_L, squared_L, bits_LP)


def _gathered(rows: AnyRows, chosen_L) -> jax.Array:
    """The rows of these numbers as they are stored, [L, P].

    XLA on a CPU would convert all bfloat16 rows to take a few of them. So there they are taken as
    whole numbers, which lie in the same memory.
    """
    if isinstance(rows, UnitRowsOnDisk):
        return rows_on_disk.taken(rows, chosen_L)
    # jnp.take, as slicing along the axis that the devices share would gather all rows on each.
    stored_NP = rows.values_NP if rows.bits_NP is None else rows.bits_NP
    stored_LP = jnp.take(stored_NP, chosen_L, axis=0, mode="clip")
    if rows.bits_NP is None:
        return stored_LP
    return lax.bitcast_convert_type(stored_LP, rows.values_NP.dtype)


def cosines_to_values(rows: AnyRows, values_LP, inverse_L) -> jax.Array:
    """Cosines of rows, by their stored values and inverse lengths, to all rows, [L, N]."""
    if isinstance(rows, UnitRowsOnDisk):
        return rows_on_disk.cosines(rows, values_LP.astype(jnp.float32) * inverse_L[:, None])
    if values_LP.dtype == jnp.float32:
        values_LP, inverse_L = values_LP * inverse_L[:, None], jnp.ones_like(inverse_L)
    elif values_LP.dtype == jnp.bfloat16:
        # By a power of two, which rounds nothing, so that rows of any length stay in range.
        _, exponent_L = jnp.frexp(inverse_L)
        values_LP = values_LP * jnp.ldexp(jnp.float32(1), exponent_L)[:, None].astype(jnp.bfloat16)
        inverse_L = jnp.ldexp(inverse_L, -exponent_L)
    return _products(rows.values_NP, values_LP) * inverse_L[:, None] * rows.inverse_length_N[None]


def cosines_to_directions(rows: AnyRows, directions_LP) -> jax.Array:
    """Cosines of float32 unit directions to all rows, [L, N]; one read of the features.

    For low-precision rows a direction is cut into D pieces that their type holds exactly.
    """
    if isinstance(rows, UnitRowsOnDisk):
        return rows_on_disk.cosines(rows, directions_LP)
    if rows.values_NP.dtype == jnp.float32:
        return _products(rows.values_NP, directions_LP) * rows.inverse_length_N[None]
    cut = _bfloat16_pieces if rows.values_NP.dtype == jnp.bfloat16 else _int8_digits
    pieces_LDP, weights_LD = jax.vmap(cut)(directions_LP)
    width = directions_LP.shape[1]
    products_XN = _products(rows.values_NP, pieces_LDP.reshape(-1, width))
    products_LDN = products_XN.reshape(*weights_LD.shape, -1)
    return jnp.sum(products_LDN * weights_LD[:, :, None], axis=1) * rows.inverse_length_N[None]


def _bfloat16_pieces(direction_P):
    pieces, rest_P = [], direction_P
    for _ in range(DIGITS):
        piece_P = lax.reduce_precision(rest_P, exponent_bits=8, mantissa_bits=7)
        pieces.append(piece_P.astype(jnp.bfloat16))
        rest_P = rest_P - piece_P
    return jnp.stack(pieces), jnp.ones(DIGITS, jnp.float32)


def _int8_digits(direction_P):
    largest = jnp.abs(direction_P).max()
    unit = jnp.where(largest > 0, largest, 1) / LARGEST_INT8
    digits, rest_P = [], direction_P / unit
    for _ in range(DIGITS):
        digit_P = jnp.round(rest_P)
        digits.append(digit_P.astype(jnp.int8))
        rest_P = (rest_P - digit_P) * DIGIT_BASE
    return jnp.stack(digits), unit / jnp.float32(DIGIT_BASE) ** jnp.arange(DIGITS)


def _products(values_NP, others_LP) -> jax.Array:
    """<other, row> in float32, [L, N].

    On a CPU, XLA keeps low precision in a product of this order of sides alone, and is fast in
    float32 in the other order.
    """
    if values_NP.dtype == jnp.float32:
        return jnp.matmul(values_NP, others_LP.T, precision=lax.Precision.HIGHEST).T
    count = len(others_LP)
    if count < FEWEST_COLUMNS:
        others_LP = jnp.pad(others_LP, ((0, FEWEST_COLUMNS - count), (0, 0)))
    products_LN = lax.dot_general(
        others_LP,
        values_NP,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.int32 if values_NP.dtype == jnp.int8 else jnp.float32,
    )
    return products_LN[:count].astype(jnp.float32)
