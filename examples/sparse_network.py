# %% [markdown]
# # A sparse network by gradient descent
#
# The sparse optimizers wrap any optimizer of optax, and know nothing of evolution. Here each of
# them fits a network that keeps a twentieth of its weights to a function of 5 of 100 inputs. Which
# inputs matter, nobody says.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from nesht_jax import magnitude_pruning, mask_of, rigl, set_, static
from nesht_jax.sparse.distribution import erdos_renyi_kernel, kernel_shapes

UPDATES = 3000
KEEP = 380  # of 7,570 weights

# %% [markdown]
# ## The data, and the network
#
# The test set is not seen in training. Without a hint the best constant has an error of 1.

# %%
data_key, network_key, mask_key, batch_key = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(data_key, (4096, 100))
y = jnp.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + jnp.abs(x[:, 3]) - 0.5 * x[:, 4]
y = (y - y.mean()) / y.std()
train, test = (x[:3072], y[:3072]), (x[3072:], y[3072:])

network = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(18), nn.relu, nn.Dense(1)])
params = network.init(network_key, x[:1])["params"]


def loss(params, batch):
    inputs, targets = batch
    return jnp.mean((network.apply({"params": params}, inputs)[:, 0] - targets) ** 2)


# %% [markdown]
# ## The optimizers
#
# How many weights each layer keeps is by the rule of Erdős and Rényi: small layers stay denser.

# %%
adam = optax.adam(3e-3)
shapes = kernel_shapes(params)
keep = erdos_renyi_kernel(shapes, KEEP)
changes = {"every": 50, "end": UPDATES * 3 // 4}
optimizers = {
    "dense": adam,
    "static": static(adam, keep=keep, key=mask_key),
    "SET": set_(adam, keep=keep, key=mask_key, **changes),
    "RigL": rigl(adam, keep=keep, key=mask_key, **changes),
    "pruning": magnitude_pruning(adam, keep=keep, begin=UPDATES // 5, **changes),
}

# %% [markdown]
# ## Training
#
# Where an optimizer has a mask, the params begin as sparse as it says.


# %%
def fit(optimizer):
    """Params after all updates, and which of them live."""
    state = optimizer.init(params)
    mask = mask_of(state, params)
    first = params if mask is None else jax.tree.map(lambda p, m: p * m, params, mask)

    def update(carry, key):
        params, state = carry
        chosen = jax.random.randint(key, (128,), 0, len(train[0]))
        gradients = jax.grad(loss)(params, (train[0][chosen], train[1][chosen]))
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    (trained, state), _ = jax.lax.scan(update, (first, state), jax.random.split(batch_key, UPDATES))
    return trained, mask_of(state, params)


for name, optimizer in optimizers.items():
    trained, mask = jax.jit(lambda optimizer=optimizer: fit(optimizer))()
    weights = sum(int(np.count_nonzero(layer["kernel"])) for layer in trained.values())
    reads = np.asarray(trained["layers_0"]["kernel"]).any(1)
    print(
        f"{name:8} {weights:5,} weights read {int(reads[:5].sum())} of 5 relevant inputs and "
        f"{int(reads[5:].sum()):2} of 95 others; error on the test set {loss(trained, test):.3f}"
    )
