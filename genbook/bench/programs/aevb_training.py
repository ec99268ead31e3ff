"""AEVB on MNIST, 784-500-20 with tanh, batches of 100: the chapter's loop against pythae's trainer
with networks of the same layers.  A turn is one pass over the images."""

import tempfile

import harness
import numpy as np

PIXELS, HIDDEN, LATENTS, BATCH, RATE = 784, 500, 20, 100, 0.02


def images(sizes):
    """Blobs; a training step takes as long on any picture."""
    random = np.random.default_rng(0)
    rough = random.random((sizes["images"], 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    return (255.0 * rough).astype(np.uint8).reshape(sizes["images"], PIXELS)


def ours(sizes):
    import itertools
    import os

    import torch

    os.environ["GENBOOK_RUN_DIR"] = tempfile.mkdtemp()
    from genbook import aevb, precision, training

    torch.set_num_threads(1)
    vae = aevb.VAE(pixels=PIXELS, hidden=HIDDEN, latents=LATENTS)
    aevb.init_normal(vae, std=0.1, generator=training.stream(0, "init"))
    precision.single_results(vae.encoder.out, vae.decoder.out)
    products = precision.products("cpu", half=True)
    optimizer = training.adagrad(vae.parameters(), lr=RATE)
    t = training.Training("bench", vae, optimizer, training.stream(0, "bench"))
    batches = t.batches(torch.from_numpy(images(sizes)), size=BATCH, steps=10**9)

    def work():
        for x in itertools.islice(batches, sizes["images"] // BATCH):
            with products:
                loss = -aevb.elbo(vae, x, generator=t.generator).mean()
            t.step(loss)

    return work, lambda: {"weights": sum(p.numel() for p in vae.parameters())}


def peer(sizes):
    import logging

    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    torch.set_num_threads(1)
    logging.disable(logging.INFO)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(PIXELS, HIDDEN)
            self.mean, self.log_var = nn.Linear(HIDDEN, LATENTS), nn.Linear(HIDDEN, LATENTS)

        def forward(self, x):
            h = self.hidden(x.reshape(len(x), -1)).tanh()
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(LATENTS, HIDDEN), nn.Linear(HIDDEN, PIXELS)

        def forward(self, z):
            return ModelOutput(reconstruction=self.out(self.hidden(z).tanh()).sigmoid())

    config = VAEConfig(
        input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce",
        uses_default_encoder=False, uses_default_decoder=False,
    )  # fmt: skip
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    x = torch.from_numpy(images(sizes)).float().div(255.0).view(-1, 1, 28, 28)
    data = BaseDataset(x, torch.zeros(len(x)))

    def work():
        with tempfile.TemporaryDirectory() as folder:
            plan = BaseTrainerConfig(
                output_dir=folder, num_epochs=1, per_device_train_batch_size=BATCH, no_cuda=True,
                optimizer_cls="Adagrad", learning_rate=RATE, keep_best_on_train=False,
            )  # fmt: skip
            trainer = BaseTrainer(model, data, training_config=plan)
            trainer.prepare_training()
            trainer.train_step(1)

    return work, lambda: {"weights": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
