from tests.score.intervention.world import folder, subject, target

__all__ = ["folder", "subject", "target"]
