# Completes pyvirtio's command lines in fish. `pyvirtio completion fish` prints this.

function __pyvirtio_complete
    set -l words (string match -v -r '^\w+=' -- (commandline -cpo)) # without variables before the command
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    set -l lines (commandline -cp | $program completion fish --answer 2>/dev/null)
    set -l paths $lines[2]
    set -l before $lines[3]
    string collect -- $lines[4..-1] | string split \n
    test -n "$paths"; or return
    for path in (__fish_complete_path (string sub -s (math 1 + (string length -- "$before")) -- $lines[1]))
        set -l name (string split -m 1 \t -- $path)[1]
        set -l place (string replace -r '^~/' "$HOME/" -- $name)
        if test $paths = folders
            test -d $place; or continue
        else if test $paths = sockets
            test -d $place; or test -S $place; or continue
        end
        echo $before$path
    end
end
complete -c pyvirtio -f -a '(__pyvirtio_complete)'
