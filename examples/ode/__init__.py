"""Fit a differential equation to data: `python -m examples.ode`.

For twenty-one years the Hudson's Bay Company counted pelts of hares and of lynxes. Lotka and
Volterra's equations say how predators and prey come and go; their four rates, and how many of both
there were at first, are learnt here from the counts, by differentiating the solver. That is a
``while`` of Python which chooses its own steps, and nothing in it is about derivatives. The files,
in the order in which they are best read:

    solver.py       Dormand and Prince's method with adaptive steps, and solutions at given times
    hares.py        the equations, and the counts
    fit.py          descent to the parameters, and the plot
    __main__.py     the command line
"""
