"""MEMO"""

from memspan.training.memo_1m.saver import Memo, MemoConfig

__all__ = ["Memo", "MemoConfig"]
