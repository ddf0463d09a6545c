"""A small Llama 3, written on lantern: `python -m examples.llama3 --help`.

The reference is *The Llama 3 Herd of Models* (arXiv 2407.21783); "section" in the docstrings of
this package means a section of that paper. The files, in the order in which they are best read:

    model.py        the network: pure functions of a pytree of parameters
    documents.py    texts in files, and the split
    tokenizer.py    bytes, or a byte-level BPE
    bytelevel.py    tokenizer.json of Hugging Face; tiktokens.py Llama 3's tokenizer.model
    templates.py    chats as tokens
    tools.py        what a model may call, and how it asks for it; calculator.py one that it may
    weights.py      models that others have trained; stored.py tensors in files
    huggingface.py  folders of Hugging Face; safetensors_file.py their tensors
    meta.py         folders of Meta; pth_file.py their tensors, and a pickle that is not run
    gguf_file.py    files of llama.cpp, read; gguf_write.py written
    vocabularies.py the tokens in files of others
    shards.py       files of tokens, mapped into memory; text.py the text of a run
    data.py         packed windows with a resumable position
    step.py         one step of training: optimiser, schedule, accumulated gradients
    evaluation.py   the loss on held-out text
    train.py        the training loop: checkpoints, what stops it; setup.py what comes before it
    cache.py        keys and values that are kept; decode.py the compiled programs that use them
    sampling.py     how a token is chosen; generate.py writing on from a prompt
    perplexity.py   how likely a text is; quantise.py weights in fewer bits
    speculative.py  a draft that guesses what a larger model writes
    serve.py        many requests at once; prompts.py reads them from files
    chat.py         a conversation; terminal.py holds it in the terminal
    checkpoint.py   what is saved, when a file is trusted, what may be resumed
    config.py       every setting with its default and its help text
    progress.py     the live display and the CSV log; plot.py the loss curve
    scaling.py      the law that small models follow; study.py the training of them
    longcontext.py  going on at longer sequences; needle.py whether a fact is found in them
    board.py        the log for TensorBoard; utilisation.py how much of a machine is used
    report.py       what a run took of energy and emissions, beside what it learnt
    files.py        atomic writes; machine.py threads, memory, Ctrl-C
    __main__.py     the command line, a table of the commands in commands/
"""
