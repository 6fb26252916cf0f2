"""Rewritten convolutions: the same numbers, in any layout, and nothing else changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from advjax import convolutions

LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "NHCW")]
# Channels in and out, side of the kernel, stride, padding, both dilations.
CASES = {
    "a row more": (24, 32, 3, 1, "SAME", 1, 1),
    "no padding": (20, 24, 3, 1, "VALID", 1, 1),
    "a kernel as large": (20, 24, 8, 1, "VALID", 1, 1),
    "parts": (3, 32, 4, 2, [(1, 1), (1, 1)], 1, 1),
    "uneven": (3, 24, 3, 2, [(0, 1), (2, 0)], 1, 1),
    "shifts": (32, 3, 3, 1, "SAME", 1, 1),
    "shifts with a padding below zero": (9, 2, 3, 1, [(-1, 0), (1, -1)], 1, 1),
    "shifts and more output than input": (9, 2, 3, 1, [(2, 2), (3, 4)], 1, 1),
    "input dilated": (24, 32, 3, 1, [(1, 2), (0, 1)], 2, 1),
    "kernel dilated": (24, 32, 3, 1, "SAME", 1, 2),
    "few channels": (1, 8, 3, 1, "SAME", 1, 1),
    "many channels": (8, 130, 1, 1, "VALID", 1, 1),
}


def _problem(layout, case, dtype=jnp.float32, batch=40):
    c, features, side, stride, padding, dilated, kernel_dilated = CASES[case]
    random = np.random.default_rng(0)
    sizes = {"N": batch, "H": 9, "W": 8, "C": c, "I": c, "O": features}

    def draw(names):
        shape = [sizes[name] for name in names]
        return jnp.asarray(random.normal(size=shape), dtype)

    x = draw(layout[0])
    sizes |= {"H": side, "W": side}
    kernel = draw(layout[1])

    def convolution(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            (dilated, dilated),
            (kernel_dilated, kernel_dilated),
            layout,
        )

    return convolution, x, kernel


def _with_gradients(convolution):
    def function(x, kernel):
        out, transposed = jax.vjp(convolution, x, kernel)
        return out, *transposed(jnp.sin(out))

    return function


def _assert_close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        largest = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_same(case):
    for layout in LAYOUTS if case == "parts" else LAYOUTS[:1]:
        convolution, x, kernel = _problem(layout, case)
        function = _with_gradients(convolution)
        found = jax.jit(convolutions.rewritten(function))(x, kernel)
        _assert_close(found, jax.jit(function)(x, kernel))


def _convolutions(jaxpr):
    """The parameters of all convolutions of a program, inner programs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn.params
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns"):
                yield from _convolutions(value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loops_hold_no_layout_but_one(layout):
    """Another one takes the slow code there."""
    convolution, x, kernel = _problem(layout, "parts")
    loss = lambda x, kernel: jnp.sum(convolution(x, kernel) ** 2)  # noqa: E731

    def descended(x, kernel):
        def body(carry, _):
            moves = jax.grad(loss, (0, 1))(*carry)
            return jax.tree.map(lambda a, b: a - 1e-3 * b, carry, moves), None

        return lax.scan(body, (x, kernel), length=2)[0]

    rewritten = convolutions.rewritten(descended)
    found = list(_convolutions(jax.make_jaxpr(rewritten)(x, kernel).jaxpr))
    assert found
    for params in found:
        assert params["dimension_numbers"] == lax.ConvDimensionNumbers(
            (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
        )
    _assert_close(jax.jit(rewritten)(x, kernel), descended(x, kernel))


def test_what_is_rewritten_stays_as_it_is():
    convolution, x, kernel = _problem(LAYOUTS[1], "parts")
    once = convolutions.rewritten(_with_gradients(convolution))
    found = [
        list(_convolutions(jax.make_jaxpr(each)(x, kernel).jaxpr))
        for each in (once, convolutions.rewritten(once))
    ]
    assert found[0] == found[1]


def test_transformations_go_through():
    convolution, x, kernel = _problem(LAYOUTS[0], "a row more", batch=2)
    rewritten = convolutions.rewritten(convolution)
    both = jnp.stack([kernel, 2 * kernel])
    mapped = jax.vmap(rewritten, (None, 0))(x, both)
    _assert_close(mapped, jax.vmap(convolution, (None, 0))(x, both))
    given = (x, kernel), (x, kernel)
    _assert_close(jax.jvp(rewritten, *given), jax.jvp(convolution, *given))
    gradients = (_with_gradients(each)(x, kernel) for each in (rewritten, convolution))
    _assert_close(*gradients)


def test_without_jit_values_are_known():
    function = convolutions.rewritten(lambda x: jnp.full(2, float(x[0])))
    np.testing.assert_array_equal(function(jnp.ones(3)), [1.0, 1.0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_other_precisions_keep_theirs(dtype):
    convolution, x, kernel = _problem(LAYOUTS[0], "a row more", dtype, batch=2)
    found = jax.jit(convolutions.rewritten(convolution))(x, kernel)
    tolerance = {2: 2e-2, 8: 1e-14}[x.dtype.itemsize]
    _assert_close([found], [jax.jit(convolution)(x, kernel)], tolerance)


def test_groups_and_other_numbers_of_axes_are_left_to_xla():
    x, kernel = jnp.ones((3, 8, 8, 6)), jnp.ones((3, 3, 2, 9))

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", None, None, LAYOUTS[0], feature_group_count=3
        )

    line, short = jnp.ones((3, 8, 6)), jnp.ones((3, 6, 40))

    def along_a_line(x, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, kernel, (1,), "SAME", None, None, numbers)

    for function, *arguments in ((grouped, x, kernel), (along_a_line, line, short)):
        function = _with_gradients(function)
        found = jax.jit(convolutions.rewritten(function))(*arguments)
        _assert_close(found, function(*arguments))


def test_functions_without_convolutions_are_the_same_program():
    @jax.custom_vjp
    def own(x):
        return x

    own.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))

    def function(x):
        x = lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)
        x = lax.while_loop(lambda x: x[0] < 1, lambda x: x + 1, x)
        return {"a": own(x), "b": (None, jnp.sum(jax.nn.relu(x)))}

    x = jnp.array([0.5, -2.0])
    rewritten = convolutions.rewritten(function)
    for transformed in (lambda f: f, jax.jit):
        found, expected = transformed(rewritten)(x), transformed(function)(x)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        _assert_close(jax.tree.leaves(found), jax.tree.leaves(expected))
    of_own = convolutions.rewritten(lambda x: own(x)[0])
    np.testing.assert_array_equal(jax.grad(of_own)(x), [2.0, 0.0])


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_only_large_batches_are_divided(num_parts):
    convolution, x, kernel = _problem(LAYOUTS[0], "parts", batch=16 * num_parts)
    jaxpr = jax.make_jaxpr(convolutions.rewritten(convolution))(x, kernel).jaxpr
    number = num_parts if jax.device_count() == 1 else 1
    assert len(list(_convolutions(jaxpr))) == number


def test_products_of_small_integers_are_as_wide_as_asked_for():
    _, x, kernel = _problem(LAYOUTS[0], "shifts", jnp.int8, batch=2)

    def wide(x, kernel):
        numbers = LAYOUTS[0]
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=numbers,
            preferred_element_type=jnp.int32,
        )

    x, kernel = 100 + x, 100 + kernel
    found = jax.jit(convolutions.rewritten(wide))(x, kernel)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, wide(x, kernel))


def test_gradients_within_shard_map_are_not_changed():
    convolution, x, kernel = _problem(LAYOUTS[0], "a row more", batch=2)
    axes = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))

    def mean(loss):
        shared = lambda kernel, x: lax.pmean(loss(kernel, x), "device")  # noqa: E731
        return jax.shard_map(
            shared, mesh=mesh, in_specs=(axes(), axes("device")), out_specs=axes()
        )

    def loss(kernel, x):
        return jnp.sum(jnp.sin(convolution(x, kernel)))

    for function in (mean(convolutions.rewritten(loss)), mean(loss)):
        gradient = convolutions.rewritten(jax.grad(function, (0, 1)))
        expected = jax.jit(jax.grad(loss, (0, 1)))(kernel, x)
        _assert_close(jax.jit(gradient)(kernel, x), expected)


def test_solvers_and_disabled_jit_go_through():
    def solved(a):
        return jnp.sum(jnp.linalg.solve(a + 3 * jnp.eye(3), jnp.ones(3)))

    gradient = jax.grad(solved)
    found = jax.jit(convolutions.rewritten(gradient))(jnp.eye(3))
    _assert_close([found], [gradient(jnp.eye(3))])
    convolution, x, kernel = _problem(LAYOUTS[0], "parts", batch=2)
    rewritten = convolutions.rewritten(_with_gradients(convolution))
    with jax.disable_jit():
        jax.make_jaxpr(rewritten)(x, kernel)


def test_programs_that_share_a_part_still_do():
    """Twelve levels of two calls each would be four thousand programs."""
    convolution, x, kernel = _problem(LAYOUTS[0], "few channels", batch=1)
    function = jax.jit(lambda x: x + jnp.mean(convolution(x, kernel)))
    for _ in range(12):
        function = jax.jit(lambda x, inner=function: inner(inner(x)))
    jaxpr = jax.make_jaxpr(convolutions.rewritten(function))(x).jaxpr

    def distinct(jaxpr, found):
        if id(jaxpr) not in found:
            found[id(jaxpr)] = jaxpr
            for eqn in jaxpr.eqns:
                if "jaxpr" in eqn.params:
                    distinct(eqn.params["jaxpr"].jaxpr, found)
        return found

    assert len(distinct(jaxpr, {})) < 20


def test_the_gradient_of_a_kernel_is_no_sum_over_pixels():
    """Its kernel is the image: as many arrays as pixels would be added."""
    convolution, x, kernel = _problem(LAYOUTS[0], "shifts", batch=500)
    gradient = convolutions.rewritten(jax.vjp(convolution, x, kernel)[1])
    out = convolution(x, kernel)
    assert len(str(jax.make_jaxpr(gradient)(out)).splitlines()) < 100


def test_batches_of_any_size_are_exported():
    convolution, x, kernel = _problem(LAYOUTS[0], "parts", batch=2)
    (n,) = export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype)
    function = jax.jit(convolutions.rewritten(lambda x: convolution(x, kernel)))
    exported = export.export(function)(shape)
    _assert_close([exported.call(x)], [convolution(x, kernel)])
