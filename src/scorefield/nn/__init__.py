"""Networks: the F of the score s = skip·u + out·F(scale·u, cond)."""
