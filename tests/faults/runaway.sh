# Starts a process that leaves its group, session and parent behind, and stays.
(setsid sleep 100 &)
(setsid sh -c 'trap "" TERM; sleep 100; sleep 100' &)
sleep 100
