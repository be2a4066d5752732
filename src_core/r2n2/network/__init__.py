"""The recurrent registration neural networks: the paper's R2N2, the learnt matching pursuit, and their weights."""
