"""Agents trained by gradients, DQN, SAC and PPO: baselines that take the same sparse optimizers."""
