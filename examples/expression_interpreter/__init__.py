"""Learn the constants of programs by differentiating their interpreter: `python -m
examples.expression_interpreter`.

A small language has numbers, variables, `if` and `while`. Its interpreter is a loop of Python: it
fetches an instruction, does what that says, and goes on where that says. Nothing in it is about
derivatives. `ln.grad` of what it returns is the derivative of any program of the language with
respect to the constants in it, through its branches and loops; and `ln.compile` compiles that once,
for programs of every length. The files, in the order in which they are best read:

    machine.py      instructions, and the loop that runs them
    fitting.py      constants from data: the loss, its gradient, and descent
    parser.py       text to a tree of statements and expressions
    assembler.py    such a tree to instructions
    programs.py     programs to try, with the constants that their data come from
    __main__.py     the command line
"""
