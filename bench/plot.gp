# Draws the rates of the benchmark's cycles as bars. gnuplot -e "data='...'; palette='...'; picture='...'; caption='...'" bench/plot.gp
set terminal svg size 900,480 dynamic enhanced font 'Helvetica,Arial,sans-serif,14' background '#ffffff'
set output picture
set encoding utf8

stats data using 0 nooutput
bars = STATS_blocks - 1
load palette

set title caption noenhanced font ',16'
set ylabel 'databases per second'
set style fill solid 1.0 noborder
set boxwidth 0.86
set border 3 linecolor '#5f6368'
set tics nomirror
set grid ytics linetype 1 linecolor '#e8eaed'
set yrange [0:*]
set offsets 0.6, 0.6, graph 0.06, 0
set key outside bottom center horizontal Left reverse maxcols 4 width 1 samplen 1 noenhanced font ',12'
set xtics scale 0 offset 0,-0.2
plot for [i = 1:bars] data index i - 1 using 1:2 with boxes linecolor rgb word(colours, i) title columnheader(1), \
    for [i = 1:bars] data index i - 1 using 1:2:(sprintf('%.0f', $2)) with labels offset 0,0.6 font ',11' \
    textcolor rgb '#3c4043' notitle, \
    data index bars using 1:(0):xticlabels(2) with points pointtype 0 notitle
