"""Gradient-based selection of instruction data in JAX: G2IS (Zhao et al., ACL 2025) and its rivals.

The rooms, in the order data flows through them; a room imports only from those before it:

    runs -> data -> model -> training -> features -> selection -> evaluation

Array names end in their axes, one letter each:

    N pool rows       M validation rows   B batch            T tokens
    D model width     H heads             K key/value heads  S cache length
    F feed-forward    V vocabulary        R LoRA rank        G flattened LoRA values
    P projected width C core-knowledge components            E neighbours per row
"""
