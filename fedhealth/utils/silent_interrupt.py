"""The first import of the server of warm processes: Ctrl-C ends it, and what is forked from it, without a traceback.

The server starts with Ctrl-C blocked (`fedhealth.utils.warm_processes`). Python would raise KeyboardInterrupt in the
middle of the server's imports; once they are done, the server itself ignores the signal. Who ignores Ctrl-C (a shell's
background job) has a server that ignores it, too.
"""

import signal

if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
