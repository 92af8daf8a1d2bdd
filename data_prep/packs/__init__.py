"""Feature packs and tables of the community are read here, without running anything of theirs."""
