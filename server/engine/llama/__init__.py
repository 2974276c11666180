"""llama.cpp behind typed Python: the only package that imports llama_cpp.

Every class here owns the handle that it wraps and frees it in ``close()``. Nothing is
scheduled or decided here.
"""
