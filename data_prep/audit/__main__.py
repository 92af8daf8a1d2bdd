from data_prep.audit import main

main()
