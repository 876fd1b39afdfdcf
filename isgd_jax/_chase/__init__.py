"""The chase of an under-trained batch: subproblem, solvers, loop, step."""
