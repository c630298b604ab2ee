"""What a hospital gains, computed directly: a plain torch loop on its own rows, and scikit-learn's AUROC."""

from itertools import islice

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from fedhealth.config.compose import compose_config
from fedhealth.config.instantiate import instantiate
from fedhealth.data.dataset import prepare_dataset
from fedhealth.data.examples import iterate_batches
from fedhealth.experiment.site_gains import TUNING_STEPS
from fedhealth.models.model_state import set_model_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.losses import compute_row_losses


class DirectHospital:
    """One hospital's rows; every row is a study, and every study has one score."""

    def __init__(self, overrides, site):
        self.config = OmegaConf.to_object(compose_config([*overrides, f"data.sites=[{site}]"]))
        torch.set_num_threads(1)
        self.cohort = prepare_dataset(self.config.data, site)
        self.inputs = build_model_inputs(self.cohort, self.build_model())

    def build_model(self):
        """Return the model as every run begins with it."""
        return build_model(self.config.model, self.config.data, self.config.seed)

    def compute_gains(self, weights):
        """Return the AUROC on the test rows of the model alone, of the shared one, and of a personal copy."""
        shared, steps = load_file(weights), self.config.strategy.rounds * self.config.training.local_steps
        models = {
            "alone": self.train({}, steps, keeps_best=len(self.cohort.rows("validation")) > 0),
            "shared": self.train(shared, 0),
            "tuned": self.train(shared, TUNING_STEPS),
        }
        return {name: self.score(model, "test") for name, model in models.items()}

    def train(self, arrays, steps, keeps_best=False):
        """Return a model after these steps from these arrays, or the best of its states after each round."""
        training, seed, model = self.config.training, self.config.seed, self.build_model()
        set_model_arrays(model, arrays)
        optimizer = instantiate(training.optimizer)([each for each in model.parameters() if each.requires_grad])
        order, states = np.random.default_rng(seed), []
        batches = iterate_batches(self.cohort.rows("train"), training.batch_size, order)
        torch.manual_seed(seed)
        for step, rows in enumerate(islice(batches, steps), start=1):
            model.train()
            optimizer.zero_grad()
            scores, targets = model(self.inputs.batch(rows)), self.inputs.targets(rows)
            compute_row_losses(scores, targets, self.config.data.task.kind).mean().backward()
            optimizer.step()
            if keeps_best and step % training.local_steps == 0:
                state = {name: value.clone() for name, value in model.state_dict().items()}
                states.append((self.score(model, "validation"), state))
        if states:
            model.load_state_dict(max(states, key=lambda each: each[0])[1])
        return model

    def score(self, model, split):
        """Return the AUROC of a split's rows."""
        rows = self.cohort.rows(split)
        with torch.inference_mode():
            scores = model.eval()(self.inputs.batch(rows)).double().numpy()[:, 0]
        return float(roc_auc_score(self.inputs.labels[rows].reshape(-1), scores))
