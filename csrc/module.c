/* An empty Python module, so that setuptools builds, installs and finds the library like any extension.
 *
 * Nothing imports it: fastgrad/engine/native.py loads the file by its path and calls the products by name. That is why it
 * may go without Python's headers, which Debian keeps in a package of their own.
 */
#if defined(__has_include)
#if __has_include(<Python.h>)
#define FG_HAVE_PYTHON 1
#endif
#endif

#ifdef FG_HAVE_PYTHON

#include <Python.h>

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastgrad._native",
    .m_doc = "Holds the C products; see fastgrad.engine.native.",
    .m_size = 0,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }

#else

typedef int fg_nothing_here;   /* ISO C wants one declaration in a file */

#endif
