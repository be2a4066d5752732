"""MetaImage: .mha, .mhd and the tracked sequences .igs.mha."""
